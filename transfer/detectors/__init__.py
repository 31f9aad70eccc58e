"""Detection engines: Detectron2 where it is installed, else parts of torchvision that equal it."""
