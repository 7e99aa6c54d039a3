"""ONNX files of trained runs: traced by JAX, written for ONNX Runtime. Needs the extra `onnx`."""
