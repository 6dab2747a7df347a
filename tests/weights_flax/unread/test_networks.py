"""Networks of others by the names of their tensors: each is named for what it is."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from resnet_flax import resnet20
from weights_flax import load_model, load_weights
from weights_flax.unread.networks import missing_layer, source_of

NAMES = {
    "BiT's of Google": (["resnet/root_block/standardized_conv2d/kernel", "resnet/group_norm/gamma"], "BiT's"),
    "BiT's of timm": (["stem.conv.weight", "stages.0.blocks.0.norm1.weight", "head.fc.weight"], "BiT's"),
    "CLIP's": (["visual.conv3.weight", "visual.attnpool.q_proj.weight"], "CLIP's ResNet"),
    "Haiku's": (["res_net50/~/initial_conv/w", "res_net50/~/block_group_0/~/block_0/~/conv_0/w"], "Haiku's ResNet"),
    "TF-slim's": (["resnet_v1_50/block1/unit_1/bottleneck_v1/conv1/weights"], "TF-slim's ResNet"),
    "TensorFlow's": (["batch_normalization_3/moving_mean:0", "conv2d/kernel:0"], "a network of TensorFlow"),
    "Detectron2's": (["backbone.bottom_up.res2.0.conv1.weight", "backbone.bottom_up.stem.conv1.weight"], "Detectron's"),
    "Detectron's": (["res2_0_branch2a_w", "conv1_w"], "Detectron's"),
    "Gluon's": (["resnetv10_conv0_weight", "resnetv10_batchnorm0_gamma"], "MXNet's Gluon"),
    "a ViT": (["cls_token", "pos_embed", "blocks.0.attn.qkv.weight"], "a transformer"),
    "quantised": (["layers.0._packed_params._packed_params", "x.zero_point"], "a quantised network"),
    "LoRA": (["down.lora_A.weight", "down.lora_B.weight"], "changes by LoRA alone"),
    "MobileNet v2's": (["features.0.0.weight", "features.1.conv.0.0.weight", "classifier.1.weight"], "a MobileNet"),
    "MobileNet v3's": (["features.0.0.weight", "features.1.block.0.0.weight"], "a MobileNet"),
    "EfficientNet's": (["features.1.0.block.0.0.weight", "features.0.0.weight"], "an EfficientNet"),
    "EfficientNet's of timm": (["conv_stem.weight", "blocks.0.0.conv_dw.weight"], "an EfficientNet"),
    "EfficientNet's of lukemelas": (["_conv_stem.weight", "_blocks.0._depthwise_conv.weight"], "an EfficientNet"),
    "MobileNet's of Keras": (["conv_dw_1/conv_dw_1/depthwise_kernel:0", "conv1/conv1/kernel:0"], "a MobileNet"),
    "Inception's": (["Conv2d_1a_3x3.conv.weight", "Mixed_5b.branch1x1.conv.weight"], "an Inception"),
    "GoogLeNet's": (["inception3a.branch1.conv.weight"], "GoogLeNet"),
    "SqueezeNet's": (["features.3.squeeze.weight", "features.3.expand1x1.weight"], "a SqueezeNet"),
    "RegNet's": (["stem.0.weight", "trunk_output.block1.block1-0.f.a.0.weight"], "a RegNet"),
    "ConvNeXt's": (["downsample_layers.0.0.weight", "stages.0.0.gamma", "stages.0.0.dwconv.weight"], "a ConvNeXt"),
    "ConvNeXt's of timm": (["stem.0.weight", "stages.0.blocks.0.conv_dw.weight"], "a ConvNeXt"),
    "YOLO's": (["model.0.conv.weight", "model.2.m.0.cv1.conv.weight"], "a YOLO"),
    "Keras' ResNet v2": (["conv2_block1_preact_bn/conv2_block1_preact_bn/gamma:0"], "Keras applications' ResNet v2"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_others_is_named(name, tmp_path):
    names, said = NAMES[name]
    assert said in (source_of(names) or "")
    save_file({each: np.ones(3, np.float32) for each in names}, tmp_path / "x.safetensors")
    for load in (load_model, lambda path: load_weights(resnet20(), path)):
        with pytest.raises(ValueError, match="its names are those of no known source, but of ") as error:
            load(tmp_path / "x.safetensors")
        assert said in str(error.value)


def test_names_of_ours_are_nobody_elses():
    assert source_of(["conv1.weight", "layer1.0.conv1.weight", "fc.bias"]) is None
    assert source_of(["features.denseblock1.denselayer1.conv1.weight", "classifier.weight"]) is None
    assert missing_layer("layer1.0.conv1.weight") is None
    assert missing_layer("layer1.0.downsample.1.weight") is None
    assert "ResNet-D" in (missing_layer("layer1.0.downsample.2.weight") or "")
    assert missing_layer("layer1.0.downsample.0.weight") is None
