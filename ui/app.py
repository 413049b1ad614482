"""The script that Streamlit runs for every change in a browser tab; everything is in `ui.page`."""

from ui.page import show_page

show_page()
