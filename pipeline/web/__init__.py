"""One model behind HTTP, and the page that people drop photos on."""
