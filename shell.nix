# A development shell for NixOS with an AMD GPU: Python 3.13 and torch on ROCm 6.4, set up for an RX 7900 XT.
#   nix-shell        then: dlmbench doctor
# The Python packages come from nixpkgs, whose torchWithRocm is built against its rocmPackages; what nixpkgs lacks or
# holds in another version is not needed to run (requirements.txt is the pinned set of the study).
{ pkgs ? import <nixpkgs> { config.allowUnfree = true; config.rocmSupport = true; } }:

let
  rocm = pkgs.rocmPackages_6_4 or pkgs.rocmPackages;
  python = pkgs.python313.withPackages (packages: with packages; [
    torchWithRocm
    transformers
    safetensors
    tokenizers
    huggingface-hub
    datasets
    annotated-types
    pydantic
    typer
    rich
    pyyaml
    numpy
    scipy
    pandas
    altair
    vl-convert-python
    nvidia-ml-py
    psutil
    jinja2
    pytest
  ]);
in
pkgs.mkShell {
  packages = [ python rocm.rocminfo rocm.rocm-smi pkgs.git pkgs.gnumake ];

  PYTORCH_HIP_ARCH = "gfx1100";
  HSA_OVERRIDE_GFX_VERSION = "11.0.0";

  shellHook = ''
    export PYTHONPATH="$PWD/src''${PYTHONPATH:+:$PYTHONPATH}"
    dlmbench() { python -m dlmbench "$@"; }
    echo "dlmbench on ROCm ($HSA_OVERRIDE_GFX_VERSION, $PYTORCH_HIP_ARCH): 'dlmbench doctor' checks torch, device and versions"
  '';
}
