"""The `.ortpackage` folder: layout, manifest, hashes, verification."""
