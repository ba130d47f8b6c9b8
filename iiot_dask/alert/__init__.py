"""Alerts: what the incidents of `health` set in motion, on their way to people and back to the plant."""
