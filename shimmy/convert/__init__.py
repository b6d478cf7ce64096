"""Makes a GGUF file of a checkpoint in SafeTensors, as llama.cpp's own converter would, with the standard library
alone. It knows both formats, and neither servers nor workers."""
