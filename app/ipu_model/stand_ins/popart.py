from app.ipu_model import aliases

aliases.give_place(__name__)
