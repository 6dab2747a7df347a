"""Constructors of architectures: the options in their signatures, and the words for options they lack."""

import inspect
from typing import get_args, get_type_hints

import pytest

from layers_flax import NetworkOptions
from resnet_flax import ResNet, resnet20, resnet50
from weights_flax import ARCHS, FAMILIES, build_model


@pytest.mark.parametrize("arch", ARCHS)
def test_the_signature_has_every_option_with_type_and_default(arch):
    parameters = inspect.signature(ARCHS[arch]).parameters
    model = ARCHS[arch]()
    (options,) = get_args(get_type_hints(inspect.unwrap(ARCHS[arch]))["options"])
    assert set(NetworkOptions.__annotations__) < set(parameters) == set(get_type_hints(options))
    for name, parameter in parameters.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default == getattr(model, name)
        assert parameter.annotation == get_type_hints(type(model))[name]


def test_the_default_is_that_of_the_architecture():
    defaults = {name: parameter.default for name, parameter in inspect.signature(resnet20).parameters.items()}
    assert [defaults[name] for name in ("stem_type", "num_classes", "width", "shortcut")] == ["cifar", 10, 16, "A"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_clases=10), "unknown option of resnet50 'num_clases'; did you mean 'num_classes'?"),
        (dict(pretrained=True), "resnet50 has no option 'pretrained': it makes a network without values; weights_flax"),
        (dict(weights="IMAGENET1K_V2"), "resnet50 has no option 'weights': it makes a network without values; weights"),
        (dict(stem_typ="cifar"), "did you mean 'stem_type'?"),
    ],
)
def test_an_option_that_is_lacking_is_told_in_one_line(options, message):
    for error in (TypeError, ValueError):  # as of any function, and as of any check
        with pytest.raises(error) as raised:
            resnet50(**options)
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError) as raised:
        build_model("resnet50", **options)
    assert message in str(raised.value)


def test_old_spellings_are_taken_with_a_warning():
    with pytest.warns(DeprecationWarning, match="stem= is stem_type= now"):
        assert resnet50(stem="cifar") == resnet50(stem_type="cifar")
    with pytest.warns(DeprecationWarning, match="stem_kind= is stem_type= now"):
        assert ResNet((1,), stem_kind="cifar") == ResNet((1,), stem_type="cifar")
    with pytest.warns(DeprecationWarning, match="stem_kind is stem_type now"):
        assert ResNet((1,), stem_type="cifar").stem_kind == "cifar"


def test_an_editor_completes_options():
    jedi = pytest.importorskip("jedi")
    names = {completion.name for completion in jedi.Script("from resnet_flax import resnet50\nresnet50(nu").complete()}
    assert "num_classes=" in names
    for arch in ("densenet121", "vgg19_bn", "plain20"):
        source = f"from {ARCHS[arch].__module__.split('.')[0]} import {arch}\n{arch}("
        (signature,) = jedi.Script(source).get_signatures()
        assert {"num_classes", "dtype"} < {parameter.name for parameter in signature.params}


def test_families_hold_every_architecture_once():
    names = [constructor.__name__ for family in FAMILIES.values() for constructor in family]
    assert sorted(names) == sorted(ARCHS)
