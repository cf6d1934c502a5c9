def document(figures):
    return ""
