"""SAELens' own folders, and what is published in them (chanind's Matryoshka, andyrdt's conversions, transcoders).

In: a folder with ``cfg.json`` and ``sae_weights.safetensors`` (W_dec (d_sae, d_in), W_enc (d_in, d_sae), b_enc, b_dec,
threshold). Out: what a `Layout` finds. A transcoder's rows live where its decoder writes (``hook_name_out``). Refuses a
transcoder that says only what it reads, BatchTopK without its learnt threshold, activation scaling or whitening that is
not stored; and, by name, architectures, settings and arrays that are neither read nor known, model loading options that
change the stream, and fine-tuned scaling.

Rows of a dictionary that was trained on a centred stream (center_writing_weights) are taken: they are right up to their
mean over the stream's width, which no LayerNorm sees; its encoder is refused.

Semantics: SAELens 6, ``saes/sae.py``, ``jumprelu_sae.py``, ``topk_sae.py``, ``batchtopk_sae.py``,
``loading/pretrained_sae_loaders.py`` (older configs).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from dragoman.core import Refusal
from dragoman.dictionaries import layout
from dragoman.dictionaries.encoder import Architecture, Encoder, Normalize, Whitening, unwhitened
from dragoman.dictionaries.folder import Folder
from dragoman.dictionaries.layout import Found, Layout, Named, Stated, Stored
from dragoman.store.spans import Arrays, shown

NAMES = Named(file="sae_weights.safetensors")
SCALER = "activation_scaler.json"
WHITENING, WHITE = "activation_whitening.safetensors", "covariance_whitening"
_ARCHITECTURES: dict[str, Architecture] = {
    "topk": "topk",
    "relu": "relu",
    "standard": "relu",
    "jumprelu": "jumprelu",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
}
_BATCHTOPK = ("batchtopk", "matryoshka_batchtopk")

# Settings that are read here, and those that leave what fires alone: the fields of SAELens' configurations from 0.x to
# 6.x. What a trainer, a logger, a store of activations or a loader of texts is told changes the weights, which are
# stored, and nothing after.
CONFIG = "cfg.json"
_READ = (
    "activation_fn activation_fn_kwargs activation_fn_str apply_b_dec_to_input architecture d_in d_out d_sae"
    " finetuning_scaling_factor hook_head_index hook_layer hook_layer_out hook_name hook_name_out hook_point"
    " hook_point_head_index hook_point_layer k layer_out metadata model_from_pretrained_kwargs model_name"
    " norm_scaling_factor normalize_activations rescale_acts_by_decoder_norm reshape_activations"
)
_TRAINER = (
    "adam_beta1 adam_beta2 autocast autocast_lm aux_loss_coefficient b_dec_init_method checkpoint_path compile_llm"
    " compile_sae dead_feature_threshold dead_feature_window decoder_heuristic_init decoder_heuristic_init_norm"
    " decoder_init_norm decoder_orthogonal_init expansion_factor feature_reinit_scale feature_sampling_method"
    " feature_sampling_window finetuning_method finetuning_tokens from_pretrained_path ghost_grads"
    " init_encoder_as_decoder_transpose jumprelu_bandwidth jumprelu_init_threshold jumprelu_sparsity_loss_mode"
    " jumprelu_ste_to_input jumprelu_tanh_scale l0_coefficient l0_warm_up_steps l1_coefficient l1_warm_up_steps"
    " llm_compilation_mode lp_norm lr lr_decay_steps lr_end lr_scheduler_name lr_warm_up_steps matryoshka_widths"
    " mse_loss_normalization n_batches_for_norm_estimate n_checkpoints n_restart_cycles noise_scale"
    " normalize_sae_decoder output_path pre_act_loss_coefficient resample_batches resume resume_from_checkpoint"
    " sae_compilation_mode save_final_checkpoint scale_sparsity_penalty_by_decoder_norm seed target_l0"
    " topk_threshold_lr total_training_samples total_training_tokens train_batch_size train_batch_size_samples"
    " train_batch_size_tokens training_tokens use_ghost_grads use_matryoshka_aux_loss use_sparse_activations"
)
_TEXTS = (
    "act_store_device activations_mixing_fraction cached_activations_path context_size dataset_path"
    " dataset_trust_remote_code disable_concat_sequences exclude_special_tokens is_dataset_tokenized model_batch_size"
    " n_batches_in_buffer new_cached_activations_path prefetch_llm_batches prepend_bos seqpos_slice"
    " sequence_separator_token shuffle_every_n_buffers store_batch_size store_batch_size_prompts streaming"
    " tokens_per_buffer use_cached_activations use_chat_formatting"
)
_TOLD = (
    "description device dtype eval_batch_size_prompts eval_every_n_wandb_logs hf_hook_name hf_hook_name_out"
    " hook_eval hook_head_index_out hook_point_eval l0 license llm_device log_activations_store_to_wandb"
    " log_optimizer_state_to_wandb log_to_wandb log_weights_to_wandb logger model_class_name n_eval_batches name"
    " neuronpedia_id notes num_dead_features run_name sae_lens_training_version sae_lens_version sparsity unique_id"
    " url variance_explained verbose wandb_entity wandb_id wandb_log_frequency wandb_project"
)
KNOWN = frozenset(f"{_READ} {_TRAINER} {_TEXTS} {_TOLD}".split())
_FACTORS = ("scaling_factor", "finetuning_scaling_factor")
ARRAYS = frozenset({"W_enc", "W_dec", "b_enc", "b_dec", "threshold", "topk_threshold", "sparsity", *_FACTORS})
# Where a model's tensors lie and how it is fetched, not what they are; and what TransformerLens rewrites between the
# stream's readers and its own weights, so that the stream stays what it is.
_LOADING = (
    "attn_implementation cache_dir center_unembed default_padding_side default_prepend_bos device device_map dtype"
    " fold_value_biases hf_model local_files_only low_cpu_mem_usage move_to_device n_devices"
    " refactor_factored_attn_matrices revision tokenizer torch_dtype trust_remote_code use_safetensors"
)
_OTHER_WEIGHTS = ("checkpoint_index", "checkpoint_value")


def _open(folder: Folder) -> Found:
    """The dictionary of a folder; its weights' header is read, no numbers (but where nothing declares shapes)."""
    what = f"dictionary {folder.label}"
    raw = layout.config_of(folder, CONFIG)
    overrides = folder.extra.get("config_overrides", {})
    config = merged(raw, overrides)
    arrays = folder.arrays(NAMES.file)
    transcoder = _is_transcoder(config)
    stated = _stated(what, config, transcoder)
    white = _whitening(what, folder, config)
    return Found(
        names=NAMES,
        stated=stated,
        make=partial(_encoder, folder, {**raw, **overrides}, config, white),
        arrays=arrays,
        d_sae=layout.number(config, "d_sae", CONFIG),
        d_in=layout.number(config, "d_out" if transcoder else "d_in", CONFIG),
        said_by=CONFIG,
        unwhitened=None if white is None else partial(unwhitened, arrays=white, what=what),
    )


def _whitening(what: str, folder: Folder, config: Mapping[str, Any]) -> Arrays | None:
    """The whitening's file of a checkpoint that was saved before whitening was folded into its weights.

    Raises:
        Refusal: whitened weights without it, or it beside weights that are said not to be whitened.
    """
    said, held = config.get("normalize_activations") == WHITE, WHITENING in folder.names
    if held and SCALER in folder.names:
        held = layout.flag(layout.config_of(folder, SCALER), "has_whitening", SCALER, usual=True)
    if said and not held:
        why = f"its rows are of whitened activations ({WHITE}), and without {WHITENING} nobody knows where they point"
        raise Refusal(what, why, "fetch that file too, or the checkpoint of the end of training")
    if held and not said:
        raise Refusal(
            what,
            f"{WHITENING} lies beside it, and its {CONFIG} says nothing of {WHITE}: whether its rows are of whitened"
            " activations is not sure",
            "fetch configuration and weights of the same checkpoint",
        )
    return folder.arrays(WHITENING) if said else None


def _is_transcoder(config: Mapping[str, Any]) -> bool:
    return (
        "transcoder" in str(config.get("architecture", ""))
        or config.get("hook_name_out") is not None
        or config.get("hook_layer_out") is not None
    )


def _stated(what: str, config: Mapping[str, Any], transcoder: bool) -> Stated:
    """Where the decoder's rows live."""
    hook, layer = config.get("hook_name") or config.get("hook_point"), layout.number(config, "hook_layer", CONFIG)
    if transcoder:
        hook = config.get("hook_name_out")
        layer = layout.number(config, "hook_layer_out" if "hook_layer_out" in config else "layer_out", CONFIG)
        if hook is None and layer is None:
            why = f"it is a transcoder and its {CONFIG} says only what it reads, not where its decoder writes"
            raise Refusal(what, why, "add hook_name_out")
    block = layer if hook is None else layout.residual_block(what, str(hook), layer, writes=transcoder)
    return Stated(
        model=layout.word(config, "model_name", CONFIG),
        block=block,
        revision=revision(what, config),
        by=f"its {CONFIG}",
    )


def _encoder(
    folder: Folder, raw: Mapping[str, Any], config: Mapping[str, Any], white: Arrays | None, stored: Stored
) -> Encoder:
    """The encoder, whole; see `refuse_odd_settings` for ``raw`` and ``config``, ``white`` is the whitening's file."""
    what, arrays = stored.what, stored.arrays
    architecture = _architecture(what, config)
    refuse_odd_settings(what, raw, config, arrays)
    parts, k = stored.read(), None
    arguments = config.get("activation_fn_kwargs")
    if architecture == "topk":  # a BatchTopK's k may be a fraction, and is not needed
        k = stored.k(_k(what, config, arguments if isinstance(arguments, Mapping) else {}), CONFIG)
    normalize, factor = _normalised(what, folder, config)
    # Of outlines too: the file is asked for, and its three arrays are looked at.
    whitening = None if white is None else Whitening.read(white, parts["W_dec"].shape[1], what)
    named, d_sae = str(config.get("architecture")), parts["b_enc"].size
    return Encoder(
        **parts,
        architecture=architecture,
        k=k,
        threshold=_threshold(what, named, arrays, d_sae) if architecture == "jumprelu" else None,
        apply_b_dec_to_input=layout.flag(config, "apply_b_dec_to_input", CONFIG, usual=True),
        rescale_by_decoder_norm=layout.flag(config, "rescale_acts_by_decoder_norm", CONFIG),
        normalize=normalize,
        input_factor=factor,
        whitening=whitening,
        site=stored.site,
    )


def _k(what: str, config: Mapping[str, Any], arguments: Mapping[str, Any]) -> int | None:
    """K of the settings, where older ones have it among the activation's arguments; refuse two that differ."""
    told = [layout.number(settings, "k", CONFIG) for settings in (config, arguments)]
    found = dict.fromkeys(k for k in told if k is not None)
    if len(found) > 1:
        raise Refusal(what, f"its {CONFIG} says k {' and '.join(map(str, found))}", f"mend {CONFIG}")
    return next(iter(found), None)


def _architecture(what: str, config: Mapping[str, Any]) -> Architecture:
    """Which activation, from the config; older releases call it activation_fn_str."""
    named = str(config.get("architecture") or "standard")
    if _is_transcoder(config):
        raise layout.no_encoder(what)
    activation = config.get("activation_fn") or config.get("activation_fn_str")
    if named == "standard" and activation is not None:
        named = str(activation)
    elif named in _ARCHITECTURES and activation not in (None, "relu", named):
        why = f"its activation_fn is '{shown(activation)}' under architecture '{named}'"
        raise Refusal(what, why, "use one of relu")
    if named not in _ARCHITECTURES:
        raise Refusal(what, f"architecture '{shown(named)}' is not known", f"use {', '.join(sorted(_ARCHITECTURES))}")
    if config.get("reshape_activations", "none") not in ("none", False):
        why = f"reshape_activations is '{shown(config['reshape_activations'])}', which is not done here"
        raise Refusal(what, why, "use a dictionary of the residual stream")
    return _ARCHITECTURES[named]


def _threshold(what: str, named: str, arrays: Arrays, d_sae: int) -> Any:
    """A JumpReLU's threshold; a BatchTopK that was saved while training holds one number for all features."""
    if "threshold" in arrays.names:
        return layout.everywhere(arrays.array("threshold").whole(), d_sae)
    learnt = arrays.array("topk_threshold").whole() if "topk_threshold" in arrays.names else None
    if learnt is not None and learnt.size == 1 and learnt.item() > 0:
        return layout.everywhere(learnt, d_sae)
    if named in _BATCHTOPK:
        raise Refusal(
            what,
            "a BatchTopK keeps k features of a batch on average, and its file holds no learnt threshold"
            " that would say which of one row",
            "save it for inference with SAELens (as jumprelu)",
        )
    raise Refusal(what, f"{NAMES.file} has no threshold", "fetch the dictionary again")


def _normalised(what: str, folder: Folder, config: Mapping[str, Any]) -> tuple[Normalize, float]:
    """What is done to the input, and the factor where it is one."""
    said = config.get("normalize_activations", "none")
    if said in (None, False, "none"):
        return "none", 1.0
    if said == WHITE:
        return "whitening", 1.0
    if said in ("constant_norm_rescale", "layer_norm"):
        return said, 1.0
    if said not in (True, "expected_average_only_in"):
        why = f"normalize_activations is '{shown(said)}', which is not known"
        raise Refusal(what, why, "use a dictionary without it")
    stored = folder.extra.get("norm_scaling_factor", config.get("norm_scaling_factor"))
    if stored is None and SCALER in folder.names:
        stored = layout.config_of(folder, SCALER).get("scaling_factor")
    scale = layout.factor(stored)
    if scale is None:
        why = "it was trained on activations scaled to an expected average, and the factor is not stored"
        raise Refusal(what, why, f"add norm_scaling_factor to {CONFIG}, or name it by its SAELens release")
    return "factor", scale


def merged(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, object]:
    """One configuration: newer releases' nested ``metadata`` laid under the top level, a registry's overrides over it.

    Settings that are null count as not there, overridden or not.
    """
    nested = config.get("metadata")
    out = {**(nested if isinstance(nested, dict) else {}), **{k: v for k, v in config.items() if v is not None}}
    return out | {name: value for name, value in overrides.items() if value is not None}


def loading(what: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the model was loaded whose stream the dictionary was trained on."""
    found = config.get("model_from_pretrained_kwargs")
    if found is not None and not isinstance(found, Mapping):
        raise Refusal(what, f"its model_from_pretrained_kwargs is '{shown(found)}', not an object", f"mend {CONFIG}")
    return found or {}


def revision(what: str, config: Mapping[str, Any]) -> str | None:
    """The model's revision, where it was loaded at one.

    Raises:
        Refusal: it was loaded at a checkpoint of its training, which no site can name.
    """
    options = loading(what, config)
    odd = next((name for name in _OTHER_WEIGHTS if options.get(name) is not None), None)
    if odd is not None:
        why = f"its model was loaded with {odd} {shown(options[odd])}, a checkpoint of its training with another stream"
        raise Refusal(what, why, "use a dictionary of the published weights")
    named = options.get("revision")
    if named is not None and not isinstance(named, str):
        raise Refusal(what, f"the revision of its model is '{shown(named)}', not a name", f"mend {CONFIG}")
    return named or None


def refuse_odd_settings(what: str, raw: Mapping[str, Any], config: Mapping[str, Any], arrays: Arrays) -> None:
    """Refuse whatever changes what fires and is not done here.

    Args:
        what: what the refusals are about.
        raw: the configuration's top level and a registry's overrides; ``metadata`` is only for people.
        config: the same with ``metadata``.
        arrays: the weights.

    Raises:
        Refusal: by the setting's or the array's name.
    """
    layout.refuse_unread(what, raw, KNOWN, CONFIG)
    head = config.get("hook_head_index", config.get("hook_point_head_index"))
    if head is not None:
        raise Refusal(what, f"its hook_head_index is {shown(head)}: it reads one head", "use one of the whole stream")
    for name, value in loading(what, config).items():
        if not layout.off(value) and name not in _LOADING.split():
            raise Refusal(
                what,
                f"it was trained on a model loaded with {shown(name)} '{shown(value)}' (model_from_pretrained_kwargs),"
                " which is not done here, and the stream as it is would fire other features",
                "use a dictionary of a model loaded as it is",
            )
    odd = next((name for name in arrays.names if name not in ARRAYS), None)
    if odd is not None:
        raise Refusal(what, f"what its array {shown(odd)} does is not known here", "use a dictionary without it")
    none = "threshold" in arrays.names and _architecture(what, config) != "jumprelu"
    if none and (arrays.array("threshold").whole() != 0).any():
        why = f"its file holds a threshold, and by {CONFIG} it is '{config.get('architecture') or 'standard'}'"
        raise Refusal(what, f"{why}, which has none", "use configuration and weights of one dictionary")
    _refuse_finetuned(what, config, arrays)


def _refuse_finetuned(what: str, config: Mapping[str, Any], arrays: Arrays) -> None:
    """Factors of the features after fine-tuning: ones change nothing."""
    held = [name for name in _FACTORS if name in arrays.names]
    odd = next((name for name in held if not (arrays.array(name).whole() == 1).all()), None)
    if odd is None and layout.flag(config, "finetuning_scaling_factor", CONFIG) and not held:
        odd = "finetuning_scaling_factor"
    if odd is not None:
        raise Refusal(what, f"it was fine-tuned with a {odd}, which is not done here", "fold it into W_dec")


LAYOUT = Layout(
    name="SAELens",
    described=f"a SAELens folder ({CONFIG} and {NAMES.file} with W_dec)",
    files=(NAMES.file,),
    needs=(frozenset({CONFIG, NAMES.file}),),
    open=_open,
)
