"""What a CosmicTagger user types: it works, or one line shows the right form."""

import re

import pytest

from ctjax import __main__ as command
from ctjax import main
from ctjax.commands import command_line, original_words, typed_values, words
from ctjax.config import networks
from ctjax.config.fields import (
    ComputeMode,
    LossBalanceScheme,
    ModeName,
    Normalization,
    Precision,
)
from ctjax.config.resolve import field_types
from ctjax.processes.join import Processes
from ctjax.runs import iotest


def read(*words, **more):
    return command_line.parse_config(words, **more)


def parse(*words, **more):
    return read(*words, **more)[0]


MISTAKES = [
    # Words that say nothing.
    ("train", "train: expected --config NAME or FIELD=VALUE; did you mean mode=train?"),
    ("--config a21 iotest", "iotest: expected .*; did you mean mode=iotest?"),
    ("configs/a21.py", "did you mean --config configs/a21.py?"),
    ("SCC_21.yaml run.id=a", "SCC_21.yaml: .*; did you mean --config SCC_21.yaml?"),
    ("a21", "a21: .*; did you mean --config a21?"),
    ("events.h5", "events.h5: .*; did you mean data.file=events.h5?"),
    ("run.iterations 5", "expected run.iterations=5, without blanks"),
    ("run.iterations = 5", "expected run.iterations=5, without blanks"),
    ("run.iterations =5", "expected run.iterations=5, without blanks"),
    ("run.iterations mode=train", "expected run.iterations=VALUE, without blanks"),
    ("run.iterations:5", "run.iterations:5: .*; did you mean run.iterations=5?"),
    ("run.id= a", "run.id=: expected a value, got nothing"),
    ("run.id=", "run.id=: expected a value, got nothing"),
    ("run.id==a", "run.id==a: expected run.id=a"),
    ("\N{EN DASH}config a21", "config: expected --config NAME or FIELD=VALUE"),
    ("bin/exec.py run.id=a", "bin/exec.py: .*; ctjax is a program by itself"),
    ("mode = iotest", "expected mode=iotest, without blanks"),
    ("mode=iotest 100", "100: expected --config NAME or FIELD=VALUE"),
    ("config-name=SCC_21.yaml", "config-name=.*: expected --config SCC_21.yaml"),
    # Options.
    ("--config_name SCC_21.yaml", "--config_name: expected --config NAME or FIELD=V"),
    ("--confg=a21", "--confg=a21: expected --config NAME or FIELD=VALUE$"),
    ("--run.id=a", "--run.id=a: expected .*; did you mean run.id=a?"),
    ("--configs.run.id=a", "--configs.run.id=a: .*; did you mean run.id=a?"),
    ("--minibatch_size=8", "did you mean run.minibatch_size=8?"),
    ("--framework torch", "--framework: .*; did you mean framework=…?"),
    ("--config.run.iterations", "expected --config.run.iterations=VALUE, got no value"),
    ("--config.run.id --config.run.seed=1", "--config.run.id: expected .* no value"),
    ("--config.data.synthetic maybe", "maybe: expected --config NAME or FIELD=VALUE"),
    ("--noconfig.run.id", "--noconfig.run.id: expected --config.run.id=VALUE"),
    ("--config a21 --config polaris", "expected one configuration, got a21 before"),
    ("-m run.minibatch_size=1,2", "-m: an option of hydra; expected one command for"),
    ("--multirun", "--multirun: an option of hydra; expected one command for each run"),
    ("--config-dir mine", "--config-dir: an option of hydra; expected --config FILE"),
    ("--config-path=mine", "--config-path=mine: an option of hydra; expected --config"),
    ("--cfg job", "--cfg: an option of hydra; the log of every run begins with its"),
    # hydra's ways to add, delete and sweep.
    ("+run.id=a", r"\+run.id=a: every field is there already; expected run.id=a"),
    ("++data.seed=1", r"\+\+data.seed=1: every field is there already; expected data"),
    ("+data.file_name=a", r"data.file_name: no such field; did you mean data.file?"),
    ("+framework.seed=7", "expected run.seed=7, its name here"),
    ("~data.aux_file", "~data.aux_file: no field .*; expected data.aux_file=VALUE, or"),
    (
        "hydra.run.dir=out",
        "hydra.run.dir=out: ctjax has no hydra; expected output_dir=FOLDER",
    ),
    ("hydra/job_logging=disabled", "hydra/job_logging=disabled: ctjax has no hydra"),
    ("run.minibatch_size=1,2", "run.minibatch_size: expected int, got '1,2'"),
    ("run.id=${run.seed}", "run.id: expected the value itself, got .*run.seed"),
    ("run.id=???", r"run.id: expected a value, got \?\?\?"),
    ("mod=iotest", r"mod: no such field; did you mean mode\?"),
    ("run={id:a}", "run: no such field but a group of them; expected run.FIELD=VALUE"),
    ("run.id=[a,b]", r"run.id: expected one value, got \[a,b\]"),
    # Configurations and networks that are not here.
    ("segformer", "segformer: .*; did you mean --config segformer?"),
    ("--config-name a21-deterministic", "expected a21 with data.synthetic=False data"),
    ("--config-name SCC21.yaml", "SCC21.yaml: no such file; expected a file or one of"),
    ("network=sparseuresnet3d", "network: sparseuresnet3d: a sparse network; ctjax's"),
    ("network=nosuch", "network: nosuch: no such file; expected a file or one of a21"),
    ("network=a21 network=polaris", "network=polaris: expected one network, got netw"),
    ("network.name=segformer", "network.name=segformer: .* expected network=segform"),
    ("network=cvt network.name=uresnet3d", "a label .*; expected network=uresnet3d"),
    ("network.name=sparseuresnet3d", "expected another one than of a sparse network"),
    ("network.name=a21", "network.name=a21: a label .*; expected network=a21"),
    ("--config a21 network.name=SCC_21", "network.name=SCC_21: .* network=scc21"),
    ("network.conv_mode=4D", "network.conv_mode=4D: expected one of 2D, conv_2D, 3D"),
    ("network.conv_mode=3D network.architecture=cvt", "conv_mode=3D and .* contradict"),
    ("network=cvt network.depth=3", "network.depth: not read by network.architecture="),
    ("network=cvt network.blocks=1,two", "network.blocks: expected a list of int, got"),
    ("network=cvt network.blocks=[1,2", "blocks: expected a list of int, got .\\[1,2"),
    ("network=cvt network.blocks=", "network.blocks=: expected a value, got nothing"),
    # Groups.
    ("mode=training", "mode=training: expected one of train, inference, iotest, quick"),
    ("mode=train mode=iotest", "mode=train and mode=iotest: expected one of them"),
    ("mode=iotest mode.name=train", "mode=iotest and mode.name=train contradict each"),
    ("data=mine", "data=mine: expected one of real, synthetic"),
    ("data=real data.synthetic=True", "data=real and data.synthetic=True contradict"),
    (
        "--config cvt framework=tensorflow",
        "framework=tensorflow: .*=uresnet, .* got cv",
    ),
    ("--config sn framework.name=tensorflow", "e=tensorflow: .*; got uresnet_v21"),
    ("framework=tensorflow network.conv_mode=3D", "framework=tensorf.* and network.co"),
    ("framework=tensorflow network.kernels=xla", "kernels: not read by .*=uresnet_ten"),
    ("framework.name=lightning", "framework.name=lightning: .*; expected torch or jax"),
    # Fields with another name, or none.
    ("iterations=5", "iterations: no such field; did you mean run.iterations?"),
    ("run.minibatchsize=8", "run.minibatchsize: .* did you mean run.minibatch_size?"),
    ("RUN.ID=a", "RUN.ID: no such field; did you mean run.id?"),
    ("run.output_dirs=a", "run.output_dirs: no such field; did you mean output_dir?"),
    ("network.batch_norm=False", "expected network.normalization=batch or none"),
    ("network.network_depth=5", "expected network.depth=5, its name here"),
    ("framework.seed=7", "framework.seed=7: expected run.seed=7, its name here"),
    ("optimizer=adam", "optimizer=adam: expected mode.optimizer.name=adam, its name"),
    ("run.run_length=9", "expected run.iterations, which counts steps"),
    ("run.val_iteration=9", "expected run.aux_iterations=9, its name here"),
    ("data.paths.train=a.h5", "expected data.file=a.h5, its name here"),
    ("data.data_format=NCHW", "one layout in ctjax; expected channels_last or chan"),
    ("framework.sparse=True", "framework.sparse=True: ctjax's sparse network is --c"),
    ("framework.environment_variables.A=1", "expected the variable in the environment"),
    (
        "network=cvt network.vertex.active=True",
        "network.vertex: not read by network.architecture=cvt; it is of uresn",
    ),
    ("run.saver=False", "TensorBoard's files are always written; mode.summ"),
    # Values.
    ("run.iterations=1e3", "run.iterations: expected int, got '1e3'"),
    ("run.minibatch_size=2.0", "run.minibatch_size: expected int, got '2.0'"),
    ("data.synthetic=maybe", "data.synthetic: expected True or False, got 'maybe'"),
    ("run.compute_mode=XPU", "run.compute_mode: expected one of auto, CPU, GPU, got"),
    ("run.precision=fp16", "run.precision: expected one of float32, bfloat16, mixed"),
    ("run.minibatch_size=null", "run.minibatch_size: expected int, got None"),
    ("data.file=[a.h5", r"data.file: expected a list \[A,B\], got \[a.h5"),
    ("data.file=[a.h5,]", "data.file: expected names in the list"),
]
"""Mistyped and half-translated lines, and what the one line of the answer says."""


@pytest.mark.parametrize(("line", "answer"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_starts_nothing_and_is_answered_in_one_line(
    line, answer, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, "run", lambda *_: pytest.fail("a run was started"))
    assert main.main(line.split(" ")) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("ctjax: error: ")
    assert re.search(answer, error), error
    assert not list(tmp_path.iterdir())


def test_at_least_thirty_lines_are_tried():
    assert len({line for line, _ in MISTAKES}) == len(MISTAKES) >= 30


def test_both_forms_of_a_field():
    assert parse("run.id=a", "--config.run.seed=3").run.seed == 3
    assert parse("--config.run.id=b", "run.seed=3").run.id == "b"
    assert parse("--config.run.id", "c").run.id == "c"
    assert parse("run.output_dir=here").output_dir == "here"
    assert parse("output_dir=there").output_dir == "there"
    assert parse("--config.run.output_dir=here").output_dir == "here"
    assert parse("data.seed=1", "--config.mode=iotest").mode.name is ModeName.IOTEST


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--config.data.synthetic", "False"], False),
        (["--config.data.synthetic", "true", "run.id=a"], True),
        (["--config.data.synthetic", "run.id=a"], True),
        (["--noconfig.data.synthetic"], False),
        (["data.synthetic=false"], False),
        (["data.synthetic=True"], True),
        (["data.synthetic='on'"], True),
        (["data.synthetic=0"], False),
        (["data=real"], False),
        (["data=synthetic"], True),
        (["data=synthetic", "data.synthetic=yes"], True),
    ],
)
def test_switches(words, expected):
    assert parse("--config", "a21", *words).data.synthetic is expected


@pytest.mark.parametrize(
    ("typed", "file"),
    [
        ("a.h5", "a.h5"),
        ("'a b.h5'", "a b.h5"),
        ('"a,b.h5"', "a,b.h5"),
        ("a.h5,b.h5", "a.h5,b.h5"),
        ("[a.h5,b.h5]", "a.h5,b.h5"),
        ("['a b.h5', \"c.h5\"]", "a b.h5,c.h5"),
        ("part_[0-9].h5", "part_[0-9].h5"),
    ],
)
def test_names_of_files_as_hydra_takes_them(typed, file):
    assert parse(f"data.file={typed}").data.file == file


@pytest.mark.parametrize("nothing", ["null", "None", "none"])
def test_what_need_not_be_set_is_unset(nothing):
    config = parse(f"run.iterations={nothing}", f"data.aux_file={nothing}")
    assert (config.run.iterations, config.data.aux_file) == (500, None)
    assert parse("data.aux_file='null'").data.aux_file == "null"
    none = parse("network.normalization=none").network.normalization
    assert none is Normalization.NONE
    assert parse("data.data_directory=").data.data_directory == ""


@pytest.mark.parametrize(
    ("mode", "name"),
    [("train", "TRAIN"), ("inference", "INFERENCE"), ("iotest", "IOTEST")],
)
def test_modes(mode, name):
    assert parse(f"mode={mode}").mode.name is ModeName[name]
    assert parse(f"mode={mode}", f"mode.name={mode}").mode.name is ModeName[name]
    assert parse(f"mode={mode}", mode=ModeName[name]).mode.name is ModeName[name]


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("SCC_21.yaml", "scc21"),
        ("SCC_21", "scc21"),
        ("scc21.py", "scc21"),
        ("a21.yaml", "A21"),
        ("polaris", "polaris"),
        ("uresnet", "uresnet"),
        ("config", "uresnet"),
    ],
)
def test_names_of_configurations(typed, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SCC_21.yaml").write_text("hydra's own")
    for option in ("--config-name", "-cn", "--config"):
        assert parse(f"{option}={typed}").network.name == name
        assert parse(option, typed).network.name == name


def test_the_network_of_a_configuration_in_another():
    """As in the original: its whole group of fields, and nothing else."""
    both = parse("network=a21", "--config-name", "SCC_21.yaml", "network.depth=5")
    a21, scc21 = parse("--config", "a21"), parse("--config", "scc21")
    assert both.network.depth == 5 and both.network.name == a21.network.name
    assert both.network.n_initial_filters == a21.network.n_initial_filters
    assert (both.data, both.mode, both.run) == (scc21.data, scc21.mode, scc21.run)
    assert parse("network=SCC_21").network == scc21.network
    assert parse("network=scc21").network == scc21.network
    assert parse("network=scc21_master").network.residual


@pytest.mark.parametrize("name", ["uresnet3d", "segformer", "cvt"])
def test_the_other_networks_of_the_original(name):
    network = parse(f"network={name}").network
    assert network.architecture.value == network.name == name
    for option in ("--config-name", "-cn", "--config"):
        assert parse(option, f"{name}.yaml").network == network
    architecture = f"network.architecture={name}"
    assert parse(architecture, f"network.name={name}").network == network
    assert parse("network=uresnet", architecture).network == network


def test_the_original_s_other_framework():
    expected = networks.UResNetTensorFlow()
    for word in ("framework=tensorflow", "framework.name=tensorflow"):
        assert parse(word).network == expected
        assert parse(word, "network.conv_mode=conv_2D").network == expected
        assert parse("network.conv_mode=2D", word).network == expected
    found = parse("--config", "SCC_21.yaml", "framework=tensorflow").network
    assert found.normalization is Normalization.NONE and not found.residual
    own = parse("network=uresnet_tensorflow", "framework=tensorflow").network
    assert own == networks.UResNetTensorFlow()
    assert parse("framework=torch", "--config=sn").network.n_initial_filters == 64


def test_the_original_s_modes_of_convolution():
    assert parse("network.conv_mode=conv_3D") == parse("network=uresnet3d")
    assert parse("network=uresnet3d", "network.conv_mode=2D") == parse()
    assert parse("network.conv_mode=conv_2D", "network=a21") == parse("network=a21")
    assert parse("--config=sn", "network.conv_mode=conv_2D") == parse("--config=sn")
    deeper = parse("--config-name", "sn-at.yaml", "network.conv_mode=3D")
    assert deeper == parse("--config", "sn_at") and deeper.data.downsample == 0
    assert deeper.network == networks.UResNet3D(name="sn_at", depth=7)


@pytest.mark.parametrize(
    "typed", ["1,2,3", "[1,2,3]", "[1, 2, 3]", "(1,2,3)", "'1,2,3'"]
)
def test_lists_of_numbers(typed):
    assert parse("network=cvt", f"network.blocks={typed}").network.blocks == (1, 2, 3)


def test_a_label_that_is_true_or_nobodys():
    assert parse("--config", "a21", "network.name=a21").network.name == "a21"
    assert parse("network.name=uresnet", "network.depth=2").network.depth == 2
    assert parse("network=polaris", "network.name=polaris").network.name == "polaris"
    assert parse("network.name=mine").network.name == "mine"


def test_the_last_of_two_values_holds_and_the_log_says_so():
    config, notes = read("run.seed=1", "run.id=a", "run.seed=2", "run.id=a")
    assert config.run.seed == 2
    assert notes == ["run.seed=1 has no effect: run.seed=2 is typed behind it"]
    config, notes = read("run.output_dir=a", "--config.output_dir=b")
    assert config.output_dir == "b" and len(notes) == 1


def test_what_asks_for_nothing_else_is_taken_with_a_line_in_the_log():
    words = ["framework=torch", "data.data_format=channels_first", "run.saver=True"]
    config, notes = read(*words, "framework.distributed_mode=DDP", "framework=jax")
    assert config == parse()
    assert [note.partition(" has no effect: ")[0] for note in notes] == [
        *words,
        "framework.distributed_mode=DDP",
        "framework=jax",
    ]


def test_notes_are_in_the_log(tmp_path, capfd):
    words = ["mode=iotest", "data=synthetic", "data.downsample=5", "framework=torch"]
    words += ["run.iterations=1000", "run.iterations=2", f"run.output_dir={tmp_path}"]
    assert main.main(words) == 0
    log = (tmp_path / "process.log").read_text()
    assert " - framework=torch has no effect: ctjax computes with jax" in log
    assert " - run.iterations=1000 has no effect: run.iterations=2 is typed" in log


@pytest.mark.parametrize("rank", [0, 1])
def test_notes_are_said_once_by_several_processes(tmp_path, monkeypatch, capfd, rank):
    monkeypatch.setattr(iotest, "run", lambda config, processes: None)
    monkeypatch.setattr(main.fresh, "move_aside", lambda config, processes: None)
    monkeypatch.setattr(main.report, "write_after_run", lambda folder: None)
    config, notes = read("mode=iotest", "framework=torch", f"output_dir={tmp_path}")
    main.run(config, Processes(rank, 2), notes)
    assert ("framework=torch has no effect" in capfd.readouterr().out) is (rank == 0)


def test_compute_mode_precision_and_processes():
    config = parse(
        *("run.compute_mode=CPU", "run.precision=mixed", "run.distributed=false")
    )
    assert config.run.compute_mode is ComputeMode.CPU
    assert config.run.precision is Precision.MIXED
    assert config.run.distributed is False


MASTER = """
run.distributed=True run.compute_mode=GPU run.iterations=500 run.aux_iterations=10
run.minibatch_size=2 run.id=a run.precision=float32 run.profile=False run.saver=True
run.horovod_num_groups=0 run.broadcast_buffers=True run.aux_minibatch_size=2
data.synthetic=False data.downsample=1 data.data_format=channels_last
data.img_transform=False data.seed=0 data.data_directory=d data.file=a.h5
data.aux_file=b.h5 framework.name=torch framework.sparse=False
framework.distributed_mode=DDP mode.name=train mode.no_summary_images=True
mode.weights_location=w mode.checkpoint_iteration=500 mode.summary_iteration=1
mode.logging_iteration=1 mode.quantization_aware=False mode.start_index=0
mode.optimizer.learning_rate=0.0003 mode.optimizer.loss_balance_scheme=focal
mode.optimizer.name=adam mode.optimizer.gradient_accumulation=1 network.bias=True
network.normalization=batch network.n_initial_filters=16 network.blocks_per_layer=2
network.blocks_deepest_layer=5 network.blocks_final=5 network.depth=6
network.filter_size_deepest=5 network.bottleneck_deepest=256 network.residual=True
network.block_concat=False network.weight_decay=0.1 network.connections=concat
network.conv_mode=conv_2D network.growth_rate=additive
network.downsampling=max_pooling network.upsampling=interpolation
network.data_format=channels_last output_dir=o run.output_dir=o
""".split()
"""Every field of the original's branch master, and of the competition's code."""


@pytest.mark.parametrize("word", MASTER)
def test_every_field_of_the_original_is_taken(word):
    config, notes = read(word)
    name = word.partition("=")[0]
    name = original_words.SAME_FIELDS.get(name, name)
    choices = words.CHOICES.get(name, ("", ()))[1]
    is_read = name in field_types(type(config)) or word.partition("=")[2] in choices
    assert is_read is not bool(notes)


def test_the_tables_hold_no_field_of_ours_and_point_to_fields():
    ours = typed_values.FIELDS
    strange = [*original_words.ABSENT_FIELDS, *original_words.OTHER_NAMES]
    assert not set(strange) & set(ours) and len(set(strange)) == len(strange)
    assert set(original_words.OTHER_NAMES.values()) <= set(ours)
    assert set(original_words.SAME_FIELDS.values()) <= set(ours)
    assert {name for name, _ in words.CHOICES.values()} <= set(ours)
    for name, absent in original_words.ABSENT_FIELDS.items():
        for value in absent.harmless:
            assert len(read(f"{name}={value}")[1]) == 1


def test_what_belongs_behind_a_command(capsys):
    assert command.main(["mode=iotest", "run.id=a b"]) == 1
    error = capsys.readouterr().err
    assert "did you mean ctjax run mode=iotest 'run.id=a b'?" in error
    assert error.count("\n") == 1


def test_the_competitions_configuration():
    config = parse("--config-name", "SCC_21.yaml")
    network = config.network
    assert network.normalization is Normalization.NONE and not network.residual
    assert config.data.downsample == 0 and not config.mode.mask_empty_pixels
    scheme = config.mode.optimizer.loss_balance_scheme
    assert scheme is LossBalanceScheme.LIGHT
