"""Networks as the service knows them: what an inspection finds, and the catalogue of torchvision and timm."""
