"""Where images are inspected (`data.regions`): its files, and the pixels that they leave."""
