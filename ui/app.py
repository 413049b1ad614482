"""The script that Streamlit runs for every change in a browser tab; everything is in `fourfold.ui.views.page`."""

from fourfold.ui.views.page import show_page

show_page()
