"""What training is fed with: the roidb made ready, minibatches of it, the data layer that serves them."""
