"""Files as they lie on disks: the formats of images, the files of folders, the records of TFDS."""
