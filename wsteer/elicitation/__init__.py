"""Data that models write: answers under opposite instructions, answers to prompts."""
