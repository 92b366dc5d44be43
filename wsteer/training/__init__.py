"""Fine-tuning on chat answers (LoRA, biases, full) by the paper's recipe, with transformers' Trainer and peft."""
