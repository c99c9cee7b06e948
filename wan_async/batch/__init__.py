"""From texts and folders of images to a plan."""
