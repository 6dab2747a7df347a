"""Constructors of architectures: the options in their signatures, and the words for options they lack."""

import inspect
from typing import Unpack, get_args, get_type_hints

import jedi
import pytest

from layers_flax import NetworkOptions, architecture
from resnet_flax import ResNet, resnet20, resnet50
from resnet_flax.resnet import ResNetOptions
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
    names = {completion.name for completion in jedi.Script("from resnet_flax import resnet50\nresnet50(nu").complete()}
    assert "num_classes=" in names
    for arch in ("densenet121", "vgg19_bn", "plain20"):
        source = f"from {ARCHS[arch].__module__.split('.')[0]} import {arch}\n{arch}("
        (signature,) = jedi.Script(source).get_signatures()
        assert {"num_classes", "dtype"} < {parameter.name for parameter in signature.params}


def test_families_hold_every_architecture_once():
    names = [constructor.__name__ for family in FAMILIES.values() for constructor in family]
    assert sorted(names) == sorted(ARCHS)


def options_of_resnet20(**options: Unpack[ResNetOptions]) -> ResNet:
    """A constructor."""
    return ResNet((1,), **options)


def test_a_wrong_default_is_told_where_it_stands():
    with pytest.raises(TypeError, match="unknown option of options_of_resnet20 'widht'; did you mean 'width'"):
        architecture("mine", widht=3)(options_of_resnet20)
    assert "options_of_resnet20" not in ARCHS


def test_a_name_is_taken_once():
    def resnet20(**options: Unpack[ResNetOptions]) -> ResNet:
        return ResNet((1,), **options)

    with pytest.raises(ValueError, match=r"arch 'resnet20' exists already, in resnet_flax\.archs; choose another name"):
        architecture("mine")(resnet20)


def test_a_constructor_without_types_is_told_what_it_lacks():
    def untyped(**options):
        return ResNet((1,), **options)

    with pytest.raises(TypeError, match=r"untyped must take \*\*options: Unpack\[…\], and name the class"):
        architecture("mine")(untyped)
    with pytest.raises(TypeError, match="architecture needs the title of a group"):
        architecture(untyped)


def test_old_and_new_name_together_are_an_error():
    with pytest.raises(TypeError, match="resnet50 got both stem_type and stem, its old name"), pytest.deprecated_call():
        resnet50(stem="cifar", stem_type="imagenet")
