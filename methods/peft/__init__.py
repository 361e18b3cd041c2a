"""Parameter-efficient fine-tuning: Task -> Task, few parameters trained beside a frozen base."""
