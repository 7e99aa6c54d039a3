"""What a person looks at: pictures of maps on the images. Numbers are made in `metrics/`."""
