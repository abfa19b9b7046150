"""What a token-trained model says about bytes: `ByteTeacher` reads it in four ways (teacher_lm.py)."""

from dbyte.byte_probabilities.teacher_lm import READINGS, ByteTeacher, Reading

__all__ = ["READINGS", "ByteTeacher", "Reading"]
