"""Settings of SAELens' folders that decide what fires: which are known to leave it alone, and which are refused.

In: a ``cfg.json``, what a registry overrides in it, and the arrays' names. Out: one configuration. Refuses, by name,
settings and arrays that are neither read nor known, model loading options that change the stream, and fine-tuned
scaling.

The names are the fields of SAELens' configurations from 0.x to 6.x: what a trainer, a logger, a store of activations or
a loader of texts is told changes the weights, which are stored, and nothing after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dragoman.core import Refusal
from dragoman.dictionaries.layout import flag, off, refuse_unread
from dragoman.store.spans import Arrays, shown

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


def merged(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
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
        raise Refusal(
            what,
            f"its model was loaded with {odd} {shown(options[odd])}, a checkpoint of its training with another stream",
            "use a dictionary of the published weights",
        )
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
    refuse_unread(what, raw, KNOWN, CONFIG)
    head = config.get("hook_head_index", config.get("hook_point_head_index"))
    if head is not None:
        raise Refusal(what, f"its hook_head_index is {shown(head)}: it reads one head", "use one of the whole stream")
    for name, value in loading(what, config).items():
        if not off(value) and name not in _LOADING.split():
            raise Refusal(
                what,
                f"it was trained on a model loaded with {shown(name)} '{shown(value)}' (model_from_pretrained_kwargs),"
                " which is not done here, and the stream as it is would fire other features",
                "use a dictionary of a model loaded as it is",
            )
    odd = next((name for name in arrays.names if name not in ARRAYS), None)
    if odd is not None:
        raise Refusal(what, f"what its array {shown(odd)} does is not known here", "use a dictionary without it")
    _refuse_finetuned(what, config, arrays)


def _refuse_finetuned(what: str, config: Mapping[str, Any], arrays: Arrays) -> None:
    """Factors of the features after fine-tuning: ones change nothing."""
    held = [name for name in _FACTORS if name in arrays.names]
    odd = next((name for name in held if not (arrays.array(name).whole() == 1).all()), None)
    if odd is None and flag(config, "finetuning_scaling_factor", CONFIG) and not held:
        odd = "finetuning_scaling_factor"
    if odd is not None:
        raise Refusal(what, f"it was fine-tuned with a {odd}, which is not done here", "fold it into W_dec")
