"""Networks that are not built here, by the names of their tensors: which they are, and which layer is missing here."""

import re
from collections.abc import Iterable

BIT = (
    "BiT's or timm's ResNet v2 (GroupNorm and weight standardisation, or BatchNorm before each convolution with a stem "
    "of its own), which is not built here"
)
NOT = ", which is not built here"
# Names that belong to a whole network or a framework; looked for anywhere in a name, the first that is found is told.
SOURCES: tuple[tuple[str, str], ...] = (
    (r"standardized_conv2d|root_block/", BIT),
    (r"(^|[./])stages\.\d+\.blocks\.\d+\.(norm\d|conv\d)\.|(^|[./])stem\.conv\.weight$", BIT),
    (r"attnpool\.", "CLIP's ResNet, which pools by attention: it is not built here"),
    (r"conv\d_block\d+_preact_bn", "Keras applications' ResNet v2, whose strides end a stage: it is not built here"),
    (r"res(?:_?net|net)_?v?\d*\w*/~/|/~/initial_conv", "Haiku's ResNet, which pads by SAME everywhere: not built here"),
    (
        r"resnet_v[12]_\d+/|/bottleneck_v[12]/",
        "TF-slim's ResNet: it strides at the end of a stage and pads on its own, which is not built here",
    ),
    (r"(^|/)batch_normalization(_\d+)?/moving_|(^|/)conv2d(_\d+)?/kernel", "a network of TensorFlow by its own counts"),
    (
        r"(^|\.)res[2-5]\.\d+\.(conv\d|shortcut)\.|(^|[._])res[2-5]_\d+_branch",
        "Detectron's ResNet: convert its names to torchvision's, and build with bottleneck_stride='v1'",
    ),
    (r"(^|\.)resnetv\d_|_batchnorm\d+_(gamma|running_mean)", "MXNet's Gluon; take timm's conversion of it"),
    (r"StructuredToParameterName|_mean$.*_variance$|\._mean$", "PaddlePaddle's: rename to torchvision's"),
    (r"(^|[./])stages\.\d+\.(blocks\.)?\d+\.(gamma|dwconv\.|conv_dw\.)|\d\.layer_scale$", f"a ConvNeXt{NOT}"),
    (
        r"(^|[./])features\.\d+\.(conv|block)\.\d+\.|(^|[./])features\.\d+\.\d+\.block\.",
        f"a MobileNet or an EfficientNet{NOT}",
    ),
    (r"(^|[./])conv_stem\.|_conv_stem\.|_depthwise_conv\.|conv_dw\.", f"a MobileNet or an EfficientNet{NOT}"),
    (
        r"expanded_conv(_\d+)?[_/]|(^|/)(conv_dw_\d+|block_\d+_depthwise|stem_conv)/",
        f"a MobileNet or an EfficientNet{NOT}",
    ),
    (r"(^|[./])(Conv2d_1a|Mixed_\d[a-z])|(^|[./])inception\d[a-e]\.", f"an Inception or GoogLeNet{NOT}"),
    (r"(^|[./])features\.\d+\.(squeeze|expand[13]x[13])\.", f"a SqueezeNet{NOT}"),
    (r"(^|[./])stage\d\.\d+\.branch[12]\.", f"a ShuffleNet{NOT}"),
    (r"(^|[./])trunk_output\.block\d", f"a RegNet{NOT}"),
    (r"(^|[./])stage\d\.\d+\.(branches|fuse_layers)\.", f"an HRNet{NOT}"),
    (r"\.cv\d\.(conv|bn)\.|(^|[./])module_list\.\d+\.", f"a YOLO{NOT}"),
    (r"(^|[./])(cls_token|pos_embed|patch_embed)|attn\.qkv|self_attn\.", "a transformer, which is not built here"),
    (r"_packed_params|\.zero_point$|weight_fake_quant", "a quantised network: save the one before it was quantised"),
    (r"lora_[AB]\.|lora_(up|down)\.", "changes by LoRA alone: merge them into the network, and save that"),
    (r"(^|[./])(blocks|features)\.\d+\.(\d+\.)?(block|conv_dw|conv_pw)", "a MobileNet or EfficientNet: not built here"),
    (r"^(exp_avg|momentum_buffer|state/\d+/)", "an optimizer's state without its network"),
    (r"^base_model\.", "a wrapped network of peft: merge and save the network itself"),
)
# Layers inside of a network of known form, by the first name at which it differs.
LAYERS: tuple[tuple[str, str], ...] = (
    (r"\.(eca|ca|cbam|attn|att|gc|simam|coord_att)\w*\.", "attention in its blocks"),
    (r"\.convs\.\d|\.bns\.\d", "Res2Net's convolutions in a row"),
    (r"\.conv2\.(fc|bn|conv)\d?|\.conv2\.(attn|paths)", "split or selective attention in its blocks (ResNeSt, SKNet)"),
    (r"\.se(_module|_layer|_block)?\.|\.fc[12]\.weight$", "squeeze-and-excitation"),
    (r"^conv1\.\d+\.|^features\.(conv[12]|norm[12])\.|^stem\.", "a deep stem of 3×3 convolutions (ResNet-C, -D, -S)"),
    (r"downsample\.[2-9]\.", "a pool before each shortcut's projection (ResNet-D)"),
    (r"\.filt$|blur|\.aa\.", "blur pools"),
    (r"\.IN\.|\.instance", "instance norm beside BatchNorm (IBN-Net)"),
    (r"conv\d(\.0)?\.bias$", "biases in its convolutions"),
    (r"(weight_g|weight_v|parametrizations|weight_orig|weight_mask|weight_u)", "parametrised or pruned weights"),
    (r"\.(gamma|layer_scale|alpha)\d?$", "scales of its own in each block"),
    (r"\.(prelu|act\d?|relu\d?)\.", "activations with parameters"),
)
NO_STATISTICS = "norms without running statistics, such as GroupNorm or LayerNorm"


def source_of(names: Iterable[str]) -> str | None:
    """Names the network or the framework of others that tensors' names belong to; None if it is not known."""
    names = list(names)
    for pattern, said in SOURCES:
        if any(re.search(pattern, name) for name in names):
            return said
    return None


def missing_layer(name: str) -> str | None:
    """Names the layer that a tensor inside of a network of known form belongs to, if it is a known one."""
    return next((said for pattern, said in LAYERS if re.search(pattern, name)), None)
