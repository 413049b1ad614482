// What a person does around the input that Streamlit has no ear for: pictures that are pasted, dropped anywhere or added
// by the "+", which all go through the one uploader; words that wait as a draft of their conversation; Enter where
// nothing needs to be written. Streamlit's elements are found by their documented st-key-* classes and data-testids.

const seen = { data: null, listening: false, depth: 0, queue: [], given: null };
const UNHEARD = 2500; // milliseconds without a sign of files that were handed on
const DRAFT = "fourfold-draft-";

const textarea = () => document.querySelector('[data-testid="stChatInput"] textarea');
const uploader = () => document.querySelector('.st-key-door input[type="file"], .st-key-welcome input[type="file"]');
const carriesFiles = (transfer) => [...(transfer?.types ?? [])].includes("Files");
// A page may have uploaders for something else, such as the import of things shown once.
const elsewhere = (target) =>
  target?.closest?.('[data-testid="stFileUploaderDropzone"], [role="dialog"], .st-key-refine') ?? null;

export default function ({ data, setTriggerValue }) {
  const last = seen.data;
  seen.data = data;
  seen.refuse = (names) => setTriggerValue("refused", names);
  keepDraft(last, data);
  const coarse = matchMedia("(pointer: coarse)").matches; // a keyboard would cover the page
  if (last && last.task !== data.task && !coarse) textarea()?.focus({ preventScroll: true });
  if (seen.listening) return;
  seen.listening = true;
  document.addEventListener("paste", paste, true);
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) document.addEventListener(kind, drag, true);
  document.addEventListener("click", click, true);
  document.addEventListener("keydown", key, true);
  document.documentElement.classList.add("fourfold-hears");
}

// ---- pictures -----------------------------------------------------------------------------------------------------

function give(files) {
  if (!files.length) return;
  const large = files.filter((file) => file.size > seen.data.largest);
  if (large.length) seen.refuse(large.map((file) => file.name));
  const good = files.filter((file) => !large.includes(file));
  if (good.length) seen.queue.push(good);
  if (seen.queue.length === 1) handOn();
  textarea()?.focus({ preventScroll: true });
}

// The uploader is a new one after each time, and one that is about to go hears nothing: the next files wait until the
// last ones are there, and those that were not heard are handed on again.
function handOn() {
  const { given, data, queue } = seen;
  const broken = given && heard(given.door)?.querySelector('[data-testid="stFileChipIconError"]');
  if (given && (data.uploads > given.uploads || broken)) {
    queue.shift();
    seen.given = null;
  } else if (given && performance.now() - given.at > UNHEARD && !heard(given.door)) seen.given = null;
  const door = uploader();
  if (!seen.given && queue.length && door) {
    const carried = new DataTransfer();
    for (const file of queue[0]) carried.items.add(file);
    seen.given = { door, uploads: data.uploads, at: performance.now() };
    door.files = carried.files;
    door.dispatchEvent(new Event("change", { bubbles: true }));
  }
  if (queue.length) setTimeout(handOn, 100);
}

// The file that an uploader lists, which is then on its way.
function heard(door) {
  return door.isConnected ? door.closest('[data-testid="stFileUploader"]')?.querySelector('[data-testid="stFileChip"]') : null;
}

function paste(event) {
  const files = [...(event.clipboardData?.files ?? [])];
  // Text processors put a picture of the text beside it.
  if (!files.length || event.clipboardData.getData("text/plain") || elsewhere(event.target)) return;
  stop(event);
  give(files);
}

function drag(event) {
  if (!carriesFiles(event.dataTransfer) || elsewhere(event.target)) return veil(false);
  stop(event);
  if (event.type === "dragenter") seen.depth += 1;
  if (event.type === "dragleave") seen.depth -= 1;
  if (event.type === "drop") {
    seen.depth = 0;
    give([...event.dataTransfer.files]);
  }
  veil(seen.depth > 0);
}

function veil(on) {
  if (!on) seen.depth = 0;
  let sheet = document.getElementById("fourfold-veil");
  if (!sheet && !on) return;
  if (!sheet) {
    sheet = document.createElement("div");
    sheet.id = "fourfold-veil";
    sheet.textContent = "Drop pictures here";
    sheet.style.cssText =
      "position:fixed;inset:0;z-index:1000000;display:grid;place-items:center;pointer-events:none;" +
      "font:600 1.4rem sans-serif;color:#fff;background:rgb(15 60 56 / 0.72);border:4px dashed #fff;box-sizing:border-box";
    document.body.append(sheet);
  }
  sheet.style.display = on ? "grid" : "none";
}

function click(event) {
  const plus = event.target.closest?.('[data-testid="stChatInputFileUploadButton"]');
  if (!plus || !uploader()) return;
  stop(event);
  uploader().click();
}

function stop(event) {
  event.preventDefault();
  event.stopImmediatePropagation();
}

// ---- words --------------------------------------------------------------------------------------------------------

function key(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.target !== textarea()) return;
  const nothing = !event.target.value.trim();
  const act = document.querySelector(".st-key-ask-chip button:not([disabled])");
  if (nothing && act) {
    stop(event);
    act.click();
  } else if (event.ctrlKey || event.metaKey) {
    stop(event); // elsewhere it sends, and here it would only break the line
    event.target.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", code: "Enter", keyCode: 13, bubbles: true }));
  }
}

function keepDraft(last, data) {
  const area = textarea();
  if (!area) return setTimeout(() => textarea() && seen.data === data && keepDraft(last, data), 100);
  area.oninput = () => store(area.value);
  const same = last && last.conversation === data.conversation;
  const begun = last && !last.conversation && data.busy; // its first question has just been asked
  if (same || begun) {
    if (begun) sessionStorage.removeItem(DRAFT);
    return store(area.value);
  }
  const draft = data.keep ? sessionStorage.getItem(DRAFT + data.conversation) ?? "" : "";
  if (area.value !== draft && (last || draft)) write(area, draft);
}

function store(words) {
  const { conversation, keep } = seen.data;
  if (keep && words) sessionStorage.setItem(DRAFT + conversation, words);
  else sessionStorage.removeItem(DRAFT + conversation);
}

function write(area, words) {
  Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(area, words); // past React's own
  area.dispatchEvent(new Event("input", { bubbles: true }));
}
