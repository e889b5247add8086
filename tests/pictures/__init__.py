"""Tests of bytelm/pictures: what documents hold, and how a browser draws them."""
