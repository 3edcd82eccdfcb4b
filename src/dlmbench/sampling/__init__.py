"""What samplers share: the denoising loop, random numbers, padding. Samplers, commit rules and caches are plug-ins."""
