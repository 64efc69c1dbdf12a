"""Export of a trained network for users who do not have this project.

network.py   averaged weights as safetensors, in diffusers' layout or together with the source of their module
card.py      the model card, rendered from card.md.j2, with the lines of torch that draw samples
write.py     writes all files to a directory, or none of them
"""
