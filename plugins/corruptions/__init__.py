"""Damage without an adversary: weather, blur, compression."""
