# The same shell under the name that `nix-shell nix-shell.nix` uses.
{ ... }@args: import ./shell.nix args
