"""Training and testing of Fast(er) R-CNN: settings, box arithmetic, the solver's loop, detection."""
