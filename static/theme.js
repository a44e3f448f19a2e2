// Before the first paint: light or dark, as chosen (cookie) or as the system says.
{
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => {
    if (!/(^|; )danlu_theme=(light|dark)/.test(document.cookie)) {
      root.setAttribute("data-bs-theme", system.matches ? "dark" : "light");
    }
  };
  follow();
  system.addEventListener("change", follow);
}
