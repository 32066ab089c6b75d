// Keeps the studio's panel true to the job, which lives in the server: asks for it while one runs, and when
// the page is opened, so that a reload finds it again.
(function () {
    "use strict";
    const PERIOD = 1000; // milliseconds
    let published = "0";
    let askWorks = true; // a tool may be at work since before the page was opened

    function find(id) {
        return gradioApp().querySelector("#" + id);
    }

    // A button of gradio's that nobody sees carries out what the server does for the page.
    function press(id) {
        const button = find(id);
        if (button) button.dispatchEvent(new Event("click"));
    }

    function look() {
        const panel = gradioApp().querySelector("#ti_studio_status .ti-studio-status");
        if (!panel) return;
        if (panel.dataset.ask === "1") press("ti_studio_poll");
        if (askWorks || gradioApp().querySelector("#ti_studio_works [data-ask]")) {
            askWorks = false;
            press("ti_studio_works_poll");
        }
        // The host lists its cards when the page is opened first, and anew at its own button only.
        if (panel.dataset.published && panel.dataset.published !== published) {
            published = panel.dataset.published;
            press("txt2img_textual_inversion_extra_refresh_internal");
            press("img2img_textual_inversion_extra_refresh_internal");
        }
    }

    // Until its answer comes a tool's button has no other sign that it is at work, and how far.
    function watchTool(event) {
        if (event.target.closest(".ti-studio-tool button.primary")) setTimeout(() => (askWorks = true), PERIOD);
    }

    // Whether a prompt calls the word; a longer word that contains it is another one.
    function calls(prompt, word) {
        const exactly = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
        return new RegExp(`(?<![\\p{L}\\p{N}_-])${exactly}(?![\\p{L}\\p{N}_-])`, "iu").test(prompt);
    }

    // Adds the words to what is typed in a prompt's box, unless they are there.
    function write(id, words) {
        const box = gradioApp().querySelector(`#${id} textarea`);
        const missing = words.split(", ").filter((word) => word && !calls(box.value, word));
        if (!missing.length) return;
        const typed = box.value.replace(/[\s,]+$/, "");
        box.value = [typed, ...missing].filter(Boolean).join(", ");
        box.dispatchEvent(new Event("input", {bubbles: true})); // gradio knows what was typed only
    }

    function writeWords(event) {
        const button = event.target.closest("[data-ti-studio-write]");
        if (!button) return;
        const page = button.dataset.tiStudioWrite;
        write(`${page}_prompt`, button.dataset.prompt);
        write(`${page}_neg_prompt`, button.dataset.negative);
        window[`switch_to_${page}`]();
    }

    // While the studio's tab is open it takes the width of the column beside it, which serves other tabs.
    function widen() {
        const tabs = find("train_tabs"), studio = find("ti_studio");
        if (tabs && studio && tabs.contains(studio)) {
            tabs.parentElement.classList.toggle("ti-studio-wide", studio.offsetParent !== null);
        }
    }

    onAfterUiUpdate(widen);
    onUiLoaded(function () {
        setInterval(look, PERIOD);
        gradioApp().addEventListener("click", writeWords);
        gradioApp().addEventListener("click", watchTool);
    });
})();
