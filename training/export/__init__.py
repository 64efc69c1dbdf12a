"""A trained network for those who do not have this project.

network.py   averaged weights as safetensors, in diffusers' layout or beside the source of the module that takes them
card.py      the model card, through card.md.j2, with the lines of torch that sample
write.py     all of it -> a directory, whole or not at all
"""
