"""The claims from the command line: help, errors of one line, and the network of a run."""

import json

import pytest

from theory_flax.__main__ import CLAIMS, main
from training_flax import TrainConfig, fit

LLVM = 1
OF_RUNS = ("gradient_identity", "shattering", "feature_reuse", "architectures")


def help_of(options, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*options, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_lists_the_claims_and_the_options_that_each_uses(capsys):
    listed = help_of([], capsys)
    assert all(f"• {claim} " in listed for claim in (*CLAIMS, "all"))
    assert "Balduzzi 2017" in listed
    nesting, everything = (help_of([claim], capsys).replace(",", " ").split() for claim in ("nesting", "all"))
    for option in ("--arch", "--run", "--data", "--data-dir", "--seeds", "--out", "--quick"):
        assert (option in nesting) == (option not in ("--arch", "--run"))
        assert option in everything


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nestin"], "unknown claim 'nestin'; did you mean 'nesting'?"),
        (["theory"], f"unknown claim 'theory'; allowed: {', '.join(map(repr, (*CLAIMS, 'all')))}"),
        ([], "Expected one of {gradient_identity,"),
        (["nesting", "--sky", "blue"], "Unrecognized options: --sky"),
        (["gradient_identity", "--arch", "resnet2"], "unknown arch 'resnet2'; did you mean"),
        (["gradient_identity", "--arch", "vgg11"], "VGG has none"),
        (["gradient_identity", "--arch", "plain20"], "PlainNet has none"),
        (["shattering", "--arch", "densnet121"], "did you mean 'densenet121'?"),
        (["degradation", "--arch", "resnet20"], "degradation takes no arch; given \"('resnet20',)\""),
        (["identity_mapping", "--run", "here"], "identity_mapping takes no run; given 'here'"),
        (["nesting", "--seeds", "0"], "seeds must be at least 1; given 0"),
        (["nesting", "--data", "digit"], "digit"),
        (["architectures", "--arch", "resnet3"], "unknown arch 'resnet3'; did you mean"),
        (["architectures", "--arch", *["resnet20"] * 4], "up to 3 networks"),
        (["architectures", "--seeds", "2"], "architectures takes no seeds"),
        (["feature_reuse", "--arch", "resnet20"], "that of a DenseNet; given ResNet"),
        (["feature_reuse", "--arch", "plain20"], "that of a DenseNet; given PlainNet"),
        (["feature_reuse", "--arch", "densenet121", "densenet169"], "one DenseNet is looked at; given 2"),
        (["feature_reuse", "--arch", "densnet121"], "did you mean 'densenet121'"),
        (["feature_reuse", "--seeds", "0"], "seeds must be at least 1"),
        (["all", "--seeds", "-1"], "seeds must be at least 1; given -1"),
        *((["all" if claim is None else claim, "--run", "nowhere"], "nowhere") for claim in (None, *OF_RUNS)),
    ],
)
def test_an_error_is_one_line(options, message, tmp_path, capsys):
    assert main(options and [*options, "--quick", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("theory_flax: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*.json"))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["architectures", "--out", str(tmp_path / "file" / "below")]) == 2
    assert capsys.readouterr().err.endswith("below' cannot be written: Not a directory\n")


@pytest.mark.slow
@pytest.mark.parametrize("claim", ["gradient_identity", "shattering"])
def test_the_network_of_a_run_is_measured(claim, tmp_path, capsys):
    fit(TrainConfig("resnet20_v2", width=4, steps=2, augment=(), image_size=8, out=tmp_path / "run"))
    seeds = ["--seeds", "2"] if claim == "shattering" else []
    assert main([claim, "--quick", *seeds, "--run", str(tmp_path / "run"), "--out", str(tmp_path)]) == 0
    assert "resnet20_v2" in capsys.readouterr().out
    result = json.loads((tmp_path / f"{claim}.json").read_text())["result"]
    if claim == "shattering":
        assert [one["name"] for one in result["networks"]] == ["resnet20_v2, initial", "resnet20_v2, trained"]
    else:
        assert result["network"] == "resnet20_v2"
        assert max(one["error"] for one in result["errors"] if one["dtype"] == "float64") <= 1e-12
    assert (tmp_path / f"{claim}.png").stat().st_size < 150_000
