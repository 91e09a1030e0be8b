"""What the recipes share: settings, images and their splits, the trainer, networks, constraints, export."""
