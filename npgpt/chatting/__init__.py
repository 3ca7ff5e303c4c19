"""What python -m npgpt.chat is made of: settings, the conversation (talk), its commands, the console.

Nothing heavy is imported.
"""
