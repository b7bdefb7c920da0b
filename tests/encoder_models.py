"""Small open_clip models of every kind with random weights, and what else the tests of the encoders share."""

import json

import numpy as np

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
TIMM = {"timm_model_name": "test_efficientnet", "image_size": 64, "timm_pool": "", "timm_proj": "linear"}
CONFIGS = {
    "vit": {"embed_dim": 12, "vision_cfg": VIT, "text_cfg": TEXT},
    "vit-avg": {
        "embed_dim": 12,
        "quick_gelu": True,
        "vision_cfg": VIT | {"pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": TEXT,
    },
    "timm-linear": {"embed_dim": 12, "vision_cfg": TIMM, "text_cfg": TEXT},
    "timm-bias": {"embed_dim": 12, "vision_cfg": TIMM | {"timm_proj_bias": True}, "text_cfg": TEXT},
    "timm-mlp": {"embed_dim": 12, "vision_cfg": TIMM | {"timm_proj": "mlp"}, "text_cfg": TEXT},
    "timm-attention": {
        "embed_dim": 16,
        "vision_cfg": TIMM | {"timm_pool": "rot_attn", "timm_proj": "linear"},
        "text_cfg": TEXT,
    },
    "timm-attention-only": {
        "embed_dim": 16,
        "vision_cfg": TIMM | {"timm_pool": "rot_attn", "timm_proj": ""},
        "text_cfg": TEXT,
    },
    "timm-classifier": {"embed_dim": 12, "vision_cfg": TIMM | {"timm_pool": "avg", "timm_proj": ""}, "text_cfg": TEXT},
    "rn": {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
        "text_cfg": TEXT,
    },
    "coca": {
        "embed_dim": 12,
        "custom_text": True,
        "vision_cfg": VIT
        | {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": TEXT | {"attn_pooler_heads": 2},
    },
}


def build(config, seed=0):
    """A random model of that configuration; nothing in it is zero or one by initialisation."""
    import open_clip
    import torch

    torch.manual_seed(seed)
    options = dict(config)
    kinds = {(False, False): open_clip.CLIP, (True, True): open_clip.CoCa}
    model = kinds[options.pop("custom_text", False), "multimodal_cfg" in options](**options)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and "logit_scale" not in name:
            tensor.add_(0.02 * torch.rand_like(tensor))
    return model


def save(folder, config, seed=0):
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    state = {name: tensor.clone() for name, tensor in build(config, seed).state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    settings = {
        "model_cfg": config,
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    return folder


def oracle(folder):
    import open_clip

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    return model.eval(), preprocess


def pictures(count, side=48):
    from PIL import Image

    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (side, side + 8, 3), dtype=np.uint8)) for _ in range(count)]


def batch_of(encoder, images):
    from torch.utils.data import default_collate

    return default_collate([encoder.preprocess(image) for image in images])


def joint(encoder, out):
    return out.projected if encoder.projection is None else out.features @ encoder.projection


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
