"""What training is fed with: the roidb made ready, minibatches drawn from it, the data layer that serves them."""
