"""fim_finetune."""
