"""Training and testing of Fast R-CNN and Faster R-CNN: settings, box arithmetic, the solver's loop, detection."""
