"""What users of TRL, Unsloth, Axolotl and LLaMA-Factory write, and what a recipe calls it."""

from typing import Any

from finery import Hints

_SETTINGS = {
    "lr": "learning_rate",
    "epoch": "epochs",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "batch_size": "effective_batch_size",
    "global_batch_size": "effective_batch_size",
    "train_batch_size": "effective_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "per_device_batch_size": "per_device_train_batch_size",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "sequence_len": "max_length",
    "sequence_length": "max_length",
    "cutoff_len": "max_length",
    "context_length": "max_length",
    "model_max_length": "max_length",
    "lr_scheduler": "lr_scheduler_type",
    "scheduler": "lr_scheduler_type",
    "warmup": "warmup_ratio",
    "gradient_clipping": "args.max_grad_norm",
    "max_grad_norm": "args.max_grad_norm",
    "max_norm": "args.max_grad_norm",
    "weight_decay": "args.weight_decay",
    "optimizer": "optim",
    "optimizer_type": "optim",
    "use_gradient_checkpointing": "gradient_checkpointing",
    "torch_dtype": "dtype",
    "precision": "dtype",
    "model_name": "model",
    "model_name_or_path": "model",
    "base_model": "model",
    "base": "model",
    "models": "model",
    "dataset": "rows",
    "datasets": "rows",
    "data": "rows",
    "train": "rows",
    "train_dataset": "rows",
    "train_data": "rows",
    "train_file": "rows",
    "dataset_name": "rows",
    "dataset_path": "rows",
    "eval_dataset": "validation",
    "eval_data": "validation",
    "val_dataset": "validation",
    "valid": "validation",
    "validation_file": "validation",
    "peft": "lora",
    "lora_config": "lora",
    "lora_r": "lora.r",
    "lora_rank": "lora.r",
    "rank": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "lora_target": "lora.target_modules",
    "lora_target_modules": "lora.target_modules",
    "lora_modules": "lora.target_modules",
    "lora.alpha": "lora.lora_alpha",
    "lora.dropout": "lora.lora_dropout",
    "lora.modules": "lora.target_modules",
    "lora.dora": "lora.use_dora",
    "lora.rslora": "lora.use_rslora",
}
_TEMPLATE = (
    "remove it: a model brings its own chat template; for another one, write chat_template: in "
    "the model's step"
)
_FOLDER = "remove it: outputs are in build/, one folder for each step"
_STOPPING = "write early_stopping_patience: 3, the validations in a row without improvement"
_ABSENT = {
    "gradient_accumulation_steps": "write effective_batch_size: the rows of one optimizer step; "
    "gradients are accumulated up to it",
    "load_in_4bit": "write quantization: nf4",
    "load_in_8bit": "write quantization: nf4; 8-bit weights aren't supported",
    "bf16": "write dtype: bf16, or remove it: dtype is auto by default",
    "fp16": "write dtype: fp16, or remove it: dtype is auto by default, which is fp16 on GPUs that "
    "don't multiply bf16",
    "tf32": "remove it: dtype is auto by default",
    "max_steps": "write epochs: the number of passes over the rows, which may be a fraction",
    "num_steps": "write epochs: the number of passes over the rows, which may be a fraction",
    "early_stopping": _STOPPING,
    "output_dir": _FOLDER,
    "output": _FOLDER,
    "save_dir": _FOLDER,
    "train_on_inputs": "remove it: only answers contribute to the loss",
    "train_on_responses_only": "remove it: only answers contribute to the loss",
    "completion_only_loss": "remove it: only answers contribute to the loss",
    "assistant_only_loss": "remove it: only answers contribute to the loss",
    "chat_template": _TEMPLATE,
    "template": _TEMPLATE,
    "enable_thinking": "write it in section models, in the model's step: "
    "chat_template_kwargs: {enable_thinking: false}, or true",
    "chat_template_kwargs": "write it in section models, in the model's step",
    "tools_as": "write it in section models, in the model's step",
    "dataset_text_field": "remove it: name the columns in the data step, "
    'columns: {user: "{{ … }}", assistant: "{{ … }}"}',
    "val_set_size": "split the rows in section data, split: {use: data.split, rows: ROWS}, and "
    "write validation: split.validation",
    "test_size": "split the rows in section data, split: {use: data.split, rows: ROWS}, and "
    "write validation: split.validation",
    "wandb_project": "write report_to: [wandb] and env: [WANDB_API_KEY, WANDB_PROJECT], and set "
    "WANDB_PROJECT in the shell",
    "save_total_limit": "remove it: the best weights are kept; checkpoints are removed at the end",
    "lora.bias": "remove it: biases aren't trained",
    "lora.task_type": "remove it: it is always CAUSAL_LM",
    "lora.lora_bias": "remove it: biases aren't trained",
}
_QUANTIZATIONS = ("4bit", "4-bit", "int4", "q4", "4", "qlora", "bnb", "true", "8bit", "8-bit")
_DTYPES = {
    "bfloat16": "bf16", "float32": "fp32", "full": "fp32", "float16": "fp16", "half": "fp16",
    "16": "fp16", "32": "fp32",
}  # fmt: skip
_OPTIMIZERS = {
    "adamw": "adamw_torch_fused", "adamw_torch": "adamw_torch_fused",
    "adamw_hf": "adamw_torch_fused", "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw_32bit",
}  # fmt: skip


def _value(setting: str, value: Any) -> str | None:
    text = str(value).lower().removeprefix("torch.")
    if setting == "quantization" and text in _QUANTIZATIONS:
        return "write quantization: nf4"
    if setting == "dtype" and text in _DTYPES:
        return f"write dtype: {_DTYPES[text]}"
    if setting == "optim" and text in _OPTIMIZERS:
        return f"write optim: {_OPTIMIZERS[text]}"
    if setting == "watch" and isinstance(value, str):
        return "write an evaluator of its own: watch: {use: eval.exact, rows: split.validation}"
    if setting == "lora" and isinstance(value, bool):
        return "write lora: null to train all weights" if not value else "write lora: {r: 16}"
    if setting == "lora" and isinstance(value, int):
        return f"write lora: {{r: {value}}}"
    if setting == "lora.target_modules" and value is None:
        return "write target_modules: all-linear"
    return None


_PREFERENCES = {**_ABSENT, "packing": "remove it: only trl.sft packs rows"}
_TURNS = "remove it: only assistant turns contribute to the loss, and `loss` chooses which"
_ANSWERS = {
    "train_on_inputs": _TURNS,
    "train_on_responses_only": _TURNS,
    "completion_only_loss": _TURNS,
    "assistant_only_loss": _TURNS,
    "roles_to_train": _TURNS,
    "train_on_prompt": _TURNS,
    "mask_prompt": _TURNS,
    "mask_history": "write loss: last_turn to learn the last turn of each row only",
    "message_field_training": "write loss: marked, and give messages `weight: 0` or `weight: 1`",
}
SFT = Hints(
    settings={**_SETTINGS, "sample_packing": "packing", "neftune": "args.neftune_noise_alpha",
              "neftune_noise_alpha": "args.neftune_noise_alpha"},
    absent={**_ABSENT, **_ANSWERS},
    called=("finetune", "finetuning", "fine.tune", "trl", "sfttrainer", "trl.sfttrainer", "lora",
            "qlora", "peft", "axolotl", "llamafactory", "instruct", "train"),
    value=_value,
)  # fmt: skip
DPO = Hints(
    settings=_SETTINGS,
    absent=_PREFERENCES,
    called=("trl.dpotrainer", "dpotrainer", "preference", "preferences", "rlhf", "orpo", "simpo"),
    value=_value,
)
KTO = Hints(
    settings=_SETTINGS, absent=_PREFERENCES, called=("trl.ktotrainer", "ktotrainer"), value=_value
)
