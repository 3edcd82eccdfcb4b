"""What samplers share: the denoising loop, random numbers, padding; samplers, commit rules, caches are plug-ins."""
