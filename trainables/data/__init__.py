"""Where examples come from: images, texts, downloads, and what is wrong with them."""
