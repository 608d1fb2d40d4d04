"""The text of a small compiled program, as XLA prints one for a GPU."""

TEXT = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,16]{1,0})->f32[8,16]{1,0}}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%fused_bias (p: f32[4]) -> bf16[8,16,4] {
  %p = f32[4]{0} parameter(0)
  %c = bf16[4]{0} convert(%p)
  ROOT %b = bf16[8,16,4]{2,1,0} broadcast(%c), dimensions={2}
}

%fused_half (p: bf16[8,16,4], q: bf16[8,16,4]) -> bf16[4,16,4] {
  %p = bf16[8,16,4]{2,1,0} parameter(0)
  %q = bf16[8,16,4]{2,1,0} parameter(1)
  %same = bf16[8,64]{1,0} bitcast(%p)
  %s = bf16[4,64]{1,0} slice(%same), slice={[0:4], [0:64]}
  %t = bf16[4,16,4]{2,1,0} bitcast(%s)
  %u = bf16[4,16,4]{2,1,0} slice(%q), slice={[4:8], [0:16], [0:4]}
  ROOT %m = bf16[4,16,4]{2,1,0} add(%t, %u)
}

%fused_turn (p: bf16[8,16,4]) -> bf16[4,8,16] {
  %p = bf16[8,16,4]{2,1,0} parameter(0)
  ROOT %t = bf16[4,8,16]{2,1,0} transpose(%p), dimensions={2,0,1}
}

%fused_still (p: bf16[8,16,4]) -> bf16[4,8,16] {
  %p = bf16[8,16,4]{2,1,0} parameter(0)
  %t = bf16[4,8,16]{0,2,1} transpose(%p), dimensions={2,0,1}
  ROOT %n = bf16[4,8,16]{0,2,1} negate(%t)
}

%fused_sums (p: bf16[8,16,4]) -> (bf16[8,16,4], f32[4]) {
  %p = bf16[8,16,4]{2,1,0} parameter(0)
  %n = bf16[8,16,4]{2,1,0} negate(%p)
  %w = f32[8,16,4]{2,1,0} convert(%n)
  %zero = f32[] constant(0)
  %r = f32[4]{0} reduce(%w, %zero), dimensions={0,1}, to_apply=%add
  ROOT %both = (bf16[8,16,4]{2,1,0}, /*index=1*/f32[4]{0}) tuple(%n, %r)
}

%body (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %state = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %v = f32[4]{0} get-tuple-element(%state), index=1
  %next = f32[4]{0} negate(%v)
  ROOT %out = (s32[], f32[4]{0}) tuple(%i, %next)
}

%condition (state: (s32[], f32[4])) -> pred[] {
  %state = (s32[], f32[4]{0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (a: f32[4], x: bf16[8,16,4], k: bf16[3,3,4,4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %x = bf16[8,16,4]{2,1,0} parameter(1)
  %k = bf16[3,3,4,4]{3,2,1,0} parameter(2)
  %bias = bf16[8,16,4]{2,1,0} fusion(%a), kind=kLoop, calls=%fused_bias
  %conv = (bf16[8,16,4]{2,1,0}, u8[4096]{0}) custom-call(%x, %k, %bias), window={size=3x3 pad=1_1x1_1}, custom_call_target="__cudnn$convBiasActivationForward", metadata={op_name="jit(step)/conv"}
  %y = bf16[8,16,4]{2,1,0} get-tuple-element(%conv), index=0
  %half = bf16[4,16,4]{2,1,0} fusion(%y, %x), kind=kLoop, calls=%fused_half
  %turned = bf16[4,8,16]{2,1,0} fusion(%y), kind=kInput, calls=%fused_turn
  %still = bf16[4,8,16]{0,2,1} fusion(%y), kind=kLoop, calls=%fused_still
  %sums = (bf16[8,16,4]{2,1,0}, f32[4]{0}) fusion(%y), kind=kInput, calls=%fused_sums, metadata={op_name="jit(step)/sum"}
  %total = f32[4]{0} get-tuple-element(%sums), index=1
  %zero = s32[] constant(0)
  %start = (s32[], f32[4]{0}) tuple(%zero, %total)
  %loop = (s32[], f32[4]{0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %result = f32[4]{0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501

IMAGE = 8 * 16 * 4 * 2  # bytes of bf16[8,16,4]
