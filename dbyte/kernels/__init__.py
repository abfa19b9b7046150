"""Faster forms of what `model/` states in plain torch: functions of tensors that compute the same values."""
