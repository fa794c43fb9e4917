const search = document.getElementById("search");
if (search) {
  const rows = [...document.querySelectorAll("#list tbody tr")];
  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/);
    for (const row of rows)
      row.hidden = !words.every(word => row.dataset.words.includes(word));
    const count = rows.filter(row => !row.hidden).length;
    document.getElementById("count").textContent = `${count} of ${rows.length}`;
  };
  search.hidden = false;
  search.addEventListener("input", update);
  update();
}
