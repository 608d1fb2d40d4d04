"""Which network a configuration has, and which fields it is refused."""

import dataclasses

import pytest

from ctjax.base.errors import ConfigError
from ctjax.commands import command_line
from ctjax.config import describe, fields, networks, resolve
from ctjax.config.architecture import AnyNetwork, Architecture
from ctjax.config.option import plain_type
from ctjax.outputs import saved_config


def network(**values):
    return resolve.resolve({"network": values}).network


def test_every_architecture_has_options_of_its_own():
    assert set(networks.SECTIONS) == set(Architecture)
    for architecture, section in networks.SECTIONS.items():
        assert network(architecture=architecture.value) == section()
        assert section().architecture is architecture
        assert section().name == architecture.value
    assert len(set(networks.SECTIONS.values())) == len(Architecture)
    assert network() == fields.Network()


@pytest.mark.parametrize("architecture", Architecture)
def test_defaults_survive_their_dictionary(architecture):
    expected = fields.Config(network=networks.SECTIONS[architecture]())
    values = fields.default_config(expected.network)
    assert resolve.build(fields.Config, values) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"architecture": "unet"},
            "network.architecture: expected one of uresnet, uresnet_v21, uresnet3d, "
            "uresnet_tensorflow, uresnet_sparse, segformer, cvt, got 'unet'",
        ),
        (
            {"architecture": "segformer", "depth": 6},
            "network.depth: not read by network.architecture=segformer; it is of "
            "uresnet, uresnet3d, uresnet_sparse, uresnet_tensorflow, uresnet_v21",
        ),
        (
            {"architecture": "uresnet_v21", "residual": True},
            "network.residual: not read by network.architecture=uresnet_v21; it is of "
            "uresnet, uresnet3d, uresnet_sparse, uresnet_tensorflow",
        ),
        (
            {"normalization": "group"},
            "network.normalization: expected none, batch, layer or instance with "
            "network.architecture=uresnet, got group",
        ),
        (
            {"architecture": "uresnet_v21", "kernel_size": 4},
            "network.kernel_size: expected an odd number, got 4",
        ),
        (
            {"architecture": "uresnet_v21", "depthwise": True},
            "network.depthwise: expected False with network.block_style=residual, got "
            "True; it is of convnext",
        ),
        (
            {
                "architecture": "uresnet_v21",
                "normalization": "group",
                "n_initial_filters": 6,
            },
            "network.n_initial_filters: expected a multiple of 4 with "
            "network.normalization=group, got 6",
        ),
        (
            {"architecture": "uresnet3d", "block_concat": False},
            "network.block_concat: not read by network.architecture=uresnet3d; it is "
            "of uresnet, uresnet_tensorflow",
        ),
        (
            {"architecture": "uresnet_tensorflow", "normalization": "instance"},
            "network.normalization: expected none, batch or layer with "
            "network.architecture=uresnet_tensorflow, got instance",
        ),
        (
            {"architecture": "uresnet_sparse", "upsampling": "interpolation"},
            "network.upsampling: not read by network.architecture=uresnet_sparse; it "
            "is of uresnet, uresnet3d, uresnet_tensorflow, uresnet_v21",
        ),
        (
            {"architecture": "uresnet_sparse", "kernels": "xla"},
            "network.kernels: not read by network.architecture=uresnet_sparse; it is "
            "of uresnet, uresnet_v21",
        ),
        (
            {"architecture": "uresnet_sparse", "block_concat": True},
            "network.block_concat: not read by network.architecture=uresnet_sparse; "
            "it is of uresnet, uresnet_tensorflow",
        ),
        (
            {"architecture": "uresnet_sparse", "normalization": "layer"},
            "network.normalization: expected none, batch or instance with "
            "network.architecture=uresnet_sparse, got layer",
        ),
        (
            {"architecture": "uresnet_sparse", "filter_size_deepest": 4},
            "network.filter_size_deepest: expected an odd number, got 4",
        ),
        (
            {
                "architecture": "uresnet_sparse",
                "vertex": {"active": True, "depth": 6},
            },
            "network.vertex.depth: expected less than the 6 levels of network.depth "
            "with network.architecture=uresnet_sparse, which makes no map of the whole "
            "image, got 6",
        ),
        (
            {
                "architecture": "uresnet_tensorflow",
                "vertex": {"active": True, "depth": 7},
            },
            "network.vertex.depth: expected at most the 6 levels of network.depth, got "
            "7",
        ),
        (
            {"architecture": "uresnet3d", "vertex": {"active": True}},
            "network.vertex: not read by network.architecture=uresnet3d; it is of "
            "uresnet, uresnet_sparse, uresnet_tensorflow, uresnet_v21",
        ),
        (
            {"decoder_dim": 3},
            "network.decoder_dim: not read by network.architecture=uresnet; it is of "
            "segformer",
        ),
        (
            {"architecture": "cvt", "block": (1, 1, 1)},
            "network.block: no such field; did you mean network.blocks?",
        ),
        (
            {"architecture": "uresnet3d", "normalization": "layer"},
            "network.normalization: expected batch or none with "
            "network.architecture=uresnet3d, got layer",
        ),
        (
            {"architecture": "uresnet3d", "filter_size_deepest": 4},
            "network.filter_size_deepest: expected an odd number, got 4",
        ),
        (
            {"architecture": "segformer", "in_dims": (8, 8, 8)},
            "network.in_dims: expected 4 numbers, one for each stage, got (8, 8, 8)",
        ),
        (
            {"architecture": "segformer", "in_dims": [32, 64, 160, 250]},
            "network.num_heads: expected a divisor of the features in "
            "network.in_dims, got 8 for 250",
        ),
        (
            {"architecture": "cvt", "blocks": (1, 1)},
            "network.blocks: expected 3 numbers, as many as network.layer_embed, got "
            "(1, 1)",
        ),
        (
            {"architecture": "cvt", "num_heads": (2, 8, 6)},
            "network.num_heads: expected a divisor of the features in "
            "network.layer_embed, got 6 for 64",
        ),
        (
            {"architecture": "cvt", "deepest_heads": 5},
            "network.deepest_heads: expected a divisor of the features in "
            "network.deepest_width, got 5 for 128",
        ),
        (
            {"architecture": "cvt", "layer_embed": ()},
            "network.layer_embed: expected a list of int, got ()",
        ),
        (
            {"architecture": "cvt", "layer_embed": (32, 6.5)},
            "network.layer_embed: expected a list of int, got (32, 6.5)",
        ),
        (
            {"architecture": "cvt", "layer_embed": (32, 0)},
            "network.layer_embed: expected at least 1, got (32, 0)",
        ),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(ConfigError) as error:
        network(**values)
    assert str(error.value) == message


def test_no_images_are_made_for_a_sparse_network():
    values = {"network": {"architecture": "uresnet_sparse"}}
    with pytest.raises(ConfigError) as error:
        resolve.resolve({**values, "data": {"densify": "device"}})
    assert str(error.value) == (
        "data.densify=device: expected host with network.architecture=uresnet_sparse, "
        "for which no images are made"
    )
    resolve.resolve(values)


def parse(*words):
    return command_line.parse_config(words)[0].network


def test_the_command_line_chooses():
    assert parse("--config.network.architecture=cvt") == networks.CvT()
    assert parse("--config", "cvt", "--config.network.architecture=segformer") == (
        networks.SegFormer()
    )
    found = parse("--config.network.architecture=cvt", "--config.network.blocks=1,2,3")
    assert found == networks.CvT(blocks=(1, 2, 3))
    found = parse("--config.network.depth=3", "--config", "uresnet3d")
    assert found == networks.UResNet3D(depth=3)
    # What a file says of the network is said of the other that is chosen, too.
    found = parse("--config", "scc21", "--config.network.architecture=uresnet3d")
    none = fields.Normalization.NONE
    expected = networks.UResNet3D(name="scc21", normalization=none, residual=False)
    assert found == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--config.network.architecture=cvt", "--config.network.depth=3"],
            "network.depth: not read by network.architecture=cvt",
        ),
        (
            ["--config.network.depth=3", "--config", "segformer"],
            "network.depth: not read by network.architecture=segformer",
        ),
        (
            ["--config", "scc21", "--config.network.architecture=segformer"],
            "network.normalization: not read by network.architecture=segformer",
        ),
        (
            ["--config.network.architecture=unet"],
            "network.architecture: expected one of uresnet, ",
        ),
        (
            ["--config", "cvt", "--config.network.blocks=1,two,3"],
            "network.blocks: expected a list of int, got '1,two,3'",
        ),
    ],
)
def test_what_the_command_line_refuses(words, message):
    with pytest.raises(ConfigError) as error:
        parse(*words)
    assert message in str(error.value)


def test_help_and_page_have_the_fields_of_every_network():
    text, page = describe.help_text("train"), describe.configuration_page()
    for architecture, section in networks.SECTIONS.items():
        assert f"  With network.architecture={architecture.value}:" in text
        heading = f"## `network`, `architecture={architecture.value}`\n"
        table = page.partition(heading)[2].partition("\n## ")[0]
        for field in dataclasses.fields(section):
            name = f"network.{field.name}"
            if dataclasses.is_dataclass(plain_type(section, field.name)):
                assert f"## `{name}`\n" in page
                assert f"  {name}.active=False  (bool)" in text
            else:
                assert f"| `{name}` |" in table
    assert "  network.in_dims=32,64,160,256  (list of int, at least 1)" in text


def test_a_checkpoint_of_another_architecture_is_refused():
    item = saved_config.to_item(fields.Config(network=networks.CvT(name="mine")))
    saved = saved_config.from_item(item, "here")
    assert saved.network == networks.CvT(name="mine")
    saved_config.check_network(saved, networks.CvT(), "here")
    with pytest.raises(saved_config.CheckpointError) as error:
        saved_config.check_network(saved, networks.SegFormer(), "here")
    assert str(error.value).endswith("network.architecture is cvt, expected segformer")
    with pytest.raises(saved_config.CheckpointError, match=r"network\.blocks is"):
        saved_config.check_network(saved, networks.CvT(blocks=(1, 1, 1)), "here")


def test_changes_of_a_training_whose_network_lacks_a_field_of_the_uresnet():
    first = fields.Config(network=networks.CvT(weight_decay=0.5))
    saved = saved_config.from_item(saved_config.to_item(first), "here")
    (line,) = saved_config.describe_changes(
        saved, fields.Config(network=networks.CvT())
    )
    assert line == "network.weight_decay=0.0 from here on, 0.5 before"
    assert not saved_config.describe_changes(saved, first)


def test_a_checkpoint_from_before_there_were_others_is_of_a_uresnet():
    item = saved_config.to_item(fields.Config())
    del item["config"]["network"]["architecture"]
    assert saved_config.from_item(item, "here").network == fields.Network()


def test_a_saved_list_is_read_as_what_it_was():
    # JSON has no tuples.
    values = fields.to_dict(networks.CvT()) | {"blocks": [2, 2, 2]}
    assert resolve.build(AnyNetwork, values) == networks.CvT()
