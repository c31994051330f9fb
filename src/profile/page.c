#include "profile/page.h"

#include <math.h>
#include <string.h>

static const char style[] =
    ":root{color-scheme:light "
    "dark;--ink:#1c2330;--soft:#5a6577;--paper:#fff;--card:#f4f6f9;--line:#d5dbe4;--focus:#0b62d6;"
    "--c0:#2f6fde;--c1:#c2491d;--c2:#2c8a4b;--c3:#8a4fd0;--c4:#b8860b;--c5:#7b8494}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6eaf1;--soft:#9aa6b8;--paper:#11151c;--card:#1b212b;--line:#"
    "323b49;"
    "--focus:#7ab0ff;--c0:#6ea0ff;--c1:#f08a5d;--c2:#5fc283;--c3:#b88cf2;--c4:#e0b544;--c5:#8e98a8}}"
    "*{box-sizing:border-box}body{margin:0;font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}"
    "main,header,nav{max-width:1180px;margin:auto;padding:0 20px}header{padding-top:22px}h1{font-size:1.5rem;margin:0}"
    "h2{font-size:1.12rem;margin:30px 0 10px}header p,.soft{color:var(--soft);margin:2px 0;overflow-wrap:anywhere}"
    "nav{display:flex;flex-wrap:wrap;gap:14px;padding-top:10px;padding-bottom:10px;border-bottom:1px solid var(--line)}"
    "a{color:var(--focus)}:focus-visible{outline:3px solid var(--focus);outline-offset:2px}"
    ".skip{position:absolute;left:-999px}.skip:focus{left:8px;top:8px;background:var(--paper);padding:6px}"
    ".figures{display:flex;flex-wrap:wrap;gap:10px;margin:16px 0}.figures div{background:var(--card);border-radius:8px;"
    "padding:9px 14px;min-width:116px}.figures dt{color:var(--soft);font-size:.82rem}.figures "
    "dd{margin:0;font-size:1.18rem;"
    "font-variant-numeric:tabular-nums}.note{border-left:4px solid var(--c4);background:var(--card);padding:7px 12px;"
    "margin:8px 0;overflow-wrap:anywhere}"
    ".bars{display:grid;grid-template-columns:max-content 1fr max-content;gap:6px 12px;align-items:center}"
    ".bar{display:flex;height:22px;background:var(--card);border-radius:3px;overflow:hidden}.bar "
    "i{display:block;height:100%}"
    ".c0{background:var(--c0)}.c1{background:var(--c1)}.c2{background:var(--c2)}.c3{background:var(--c3)}"
    ".c4{background:var(--c4)}.c5{background:var(--c5)}.legend{display:flex;flex-wrap:wrap;gap:6px 16px;margin:10px 0;"
    "padding:0;list-style:none;color:var(--soft)}.legend "
    "b{display:inline-block;width:12px;height:12px;border-radius:3px;"
    "margin-right:6px;vertical-align:-1px}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}"
    "th,td{padding:4px 10px;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}"
    "th{color:var(--soft);font-weight:600}th:first-child,td:first-child,.name{text-align:left}"
    ".name{font-family:ui-monospace,monospace;font-size:.84rem;overflow-wrap:anywhere;min-width:260px}"
    "td.better{color:var(--c2)}td.worse{color:var(--c1)}"
    "canvas{width:100%;height:150px;display:block;border:1px solid var(--line);border-radius:6px;touch-action:none;"
    "cursor:grab}.tools{display:flex;flex-wrap:wrap;gap:8px;margin:8px 0}button,input{font:inherit;color:inherit;"
    "background:var(--card);border:1px solid var(--line);border-radius:6px;padding:4px 12px}output{display:block;"
    "min-height:3em;font-family:ui-monospace,monospace;font-size:.84rem;overflow-wrap:anywhere}"
    "footer{color:var(--soft);max-width:1180px;margin:30px auto;padding:0 20px}"
    "@media print{nav,.tools,.skip{display:none}:root{--ink:#000;--soft:#444;--paper:#fff;--card:#f2f2f2;--line:#bbb}"
    "body{font-size:11px}section{break-inside:avoid-page}*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}";

/* The timeline: kernels of one inference on a canvas, its stages above them; and the filter of the kernel tables. */
static const char script[] =
    "'use strict';(()=>{const box=document.getElementById('timeline-data');"
    "document.querySelectorAll('input[data-filter]').forEach(input=>input.addEventListener('input',()=>{"
    "const word=input.value.toLowerCase();document.querySelectorAll('#'+input.dataset.filter+' tbody "
    "tr').forEach(row=>{"
    "row.hidden=!row.textContent.toLowerCase().includes(word)})}));if(!box)return;"
    "const "
    "data=JSON.parse(box.textContent),canvas=document.getElementById('timeline'),say=document.getElementById('told'),"
    "pen=canvas.getContext('2d'),kernels=data.kernels,end=Math.max(data.end,1e-3);"
    "let from=0,to=end,chosen=-1;const color=i=>getComputedStyle(document.documentElement).getPropertyValue(i).trim();"
    "const us=t=>t>=1000?(t/1000).toFixed(3)+' ms':t.toFixed(2)+' us';"
    "function first(t){let low=0,high=kernels.length;while(low<high){const m=(low+high)>>1;"
    "if(kernels[m][0]+kernels[m][1]<t)low=m+1;else high=m}return low}"
    "function draw(){const ratio=window.devicePixelRatio||1,w=canvas.clientWidth,h=canvas.clientHeight;"
    "if(canvas.width!==Math.round(w*ratio)||canvas.height!==Math.round(h*ratio)){canvas.width=Math.round(w*ratio);"
    "canvas.height=Math.round(h*ratio)}pen.setTransform(ratio,0,0,ratio,0,0);pen.clearRect(0,0,w,h);"
    "const "
    "x=t=>(t-from)/(to-from)*w,palette=[0,1,2,3,4,5].map(i=>color('--c'+i)),ink=color('--ink'),line=color('--line');"
    "pen.font='12px system-ui';pen.textBaseline='middle';"
    "for(const s of data.stages){const a=Math.max(0,x(s[0])),b=Math.min(w,x(s[1]));if(b<=a)continue;pen.fillStyle=line;"
    "pen.fillRect(a,4,Math.max(1,b-a-1),24);if(b-a>46){pen.fillStyle=ink;pen.fillText(s[2],a+6,16,b-a-8)}}"
    "let last=-1;for(let i=first(from);i<kernels.length&&kernels[i][0]<=to;i++){const k=kernels[i],a=x(k[0]),"
    "b=Math.max(a+0.6,x(k[0]+k[1]));if(b<last+0.3&&i!==chosen)continue;last=b;pen.fillStyle=palette[k[3]];"
    "pen.fillRect(a,36,b-a,i===chosen?84:74);if(b-a>60){pen.fillStyle=color('--paper');"
    "pen.fillText(data.names[k[2]],a+4,73,b-a-6)}}"
    "if(chosen>=0){const k=kernels[chosen],a=x(k[0]),b=Math.max(a+2,x(k[0]+k[1]));pen.strokeStyle=ink;pen.lineWidth=2;"
    "pen.strokeRect(a,35,b-a,86)}"
    "pen.fillStyle=color('--soft');pen.fillText(us(from),4,h-10);pen.textAlign='right';pen.fillText(us(to),w-4,h-10);"
    "pen.textAlign='left';canvas.dataset.from=from;canvas.dataset.to=to;canvas.dataset.chosen=chosen}"
    "function view(a,b){const "
    "span=Math.min(end,Math.max(0.5,b-a));a=Math.max(0,Math.min(end-span,a));from=a;to=a+span;draw()}"
    "function zoom(factor,at){view(at-(at-from)*factor,at+(to-at)*factor)}"
    "function choose(i){if(!kernels.length)return;chosen=Math.max(0,Math.min(kernels.length-1,i));const "
    "k=kernels[chosen];"
    "if(k[0]<from||k[0]+k[1]>to){const span=to-from;view(k[0]+k[1]/2-span/2,k[0]+k[1]/2+span/2)}else draw();"
    "say.textContent='kernel '+(chosen+1)+' of '+kernels.length+', at '+us(k[0])+', '+us(k[1])+', '+data.ops[k[3]]+': "
    "'+"
    "data.names[k[2]]}"
    "const time=e=>{const r=canvas.getBoundingClientRect();return from+(e.clientX-r.left)/r.width*(to-from)};"
    "canvas.addEventListener('wheel',e=>{e.preventDefault();zoom(e.deltaY>0?1.25:0.8,time(e))},{passive:false});"
    "let grip=null;canvas.addEventListener('pointerdown',e=>{grip={t:time(e),x:e.clientX,moved:false};"
    "canvas.setPointerCapture(e.pointerId)});"
    "canvas.addEventListener('pointermove',e=>{if(!grip)return;if(Math.abs(e.clientX-grip.x)>3)grip.moved=true;"
    "if(grip.moved){const d=grip.t-time(e);view(from+d,to+d)}});"
    "canvas.addEventListener('pointerup',e=>{if(grip&&!grip.moved)choose(Math.min(first(time(e)),kernels.length-1));"
    "grip=null});"
    "const middle=()=>chosen>=0?kernels[chosen][0]+kernels[chosen][1]/2:(from+to)/2;"
    "const inView=()=>{const m=middle();return m>=from&&m<=to?m:(from+to)/2};"
    "const acts={in:()=>zoom(0.5,inView()),out:()=>zoom(2,inView()),left:()=>view(from-(to-from)/4,to-(to-from)/4),"
    "right:()=>view(from+(to-from)/4,to+(to-from)/"
    "4),all:()=>view(0,end),next:()=>choose(chosen<0?first(from):chosen+1),"
    "previous:()=>choose(chosen<0?first(from):chosen-1)};"
    "const keys={'+':'in','=':'in','-':'out','ArrowLeft':'left','ArrowRight':'right','Home':'all','0':'all','n':'next',"
    "'p':'previous','ArrowDown':'next','ArrowUp':'previous'};"
    "canvas.addEventListener('keydown',e=>{const act=keys[e.key];if(!act||e.ctrlKey||e.metaKey||e.altKey)return;"
    "e.preventDefault();acts[act]()});"
    "document.querySelectorAll('button[data-act]').forEach(b=>b.addEventListener('click',()=>acts[b.dataset.act]()));"
    "window.addEventListener('resize',draw);window.addEventListener('beforeprint',()=>view(0,end));"
    "window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change',draw);draw()})();";

void page_text(text_buffer *page, const char *text, size_t limit) {
    size_t length = strlen(text), shown = limit && length > limit ? limit : length, plain = 0;
    while (shown < length && shown > 0 && ((unsigned char)text[shown] & 0xc0) == 0x80) shown--; /* whole characters */
    for (size_t i = 0; i < shown; i++) {
        const char *replacement = NULL;
        switch (text[i]) {
        case '&':
            replacement = "&amp;";
            break;
        case '<':
            replacement = "&lt;";
            break;
        case '>':
            replacement = "&gt;";
            break;
        case '"':
            replacement = "&quot;";
            break;
        case '\'':
            replacement = "&#39;";
            break;
        default:
            if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f) replacement = " ";
        }
        if (!replacement) continue;
        text_put_n(page, text + plain, i - plain);
        text_put(page, replacement);
        plain = i + 1;
    }
    text_put_n(page, text + plain, shown - plain);
    if (shown < length) text_put(page, "...");
}

void page_begin(text_buffer *page, const char *title, const char *subtitle) {
    text_put(page, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
                   "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>");
    page_text(page, title, 200);
    text_put(page, "</title><link rel=\"icon\" href=\"data:,\"><style>");
    text_put(page, style);
    text_put(page, "</style></head>\n<body><a class=\"skip\" href=\"#main\">Skip to the report</a><header><h1>");
    page_text(page, title, 200);
    text_put(page, "</h1>");
    if (subtitle) {
        text_put(page, "<p>");
        page_text(page, subtitle, 500);
        text_put(page, "</p>");
    }
    text_put(page, "</header>\n");
}

void page_end(text_buffer *page) {
    text_put(page, "</main><footer>Made by pi0.c. Times are kernel times unless said otherwise.</footer>\n<script>");
    text_put(page, script);
    text_put(page, "</script></body></html>\n");
}

void page_section(text_buffer *page, const char *id, const char *title) {
    text_put_format(page, "<section id=\"%s\" aria-labelledby=\"%s-title\"><h2 id=\"%s-title\">", id, id, id);
    page_text(page, title, 0);
    text_put(page, "</h2>\n");
}

void page_section_end(text_buffer *page) { text_put(page, "</section>\n"); }

void page_number(text_buffer *page, double value, int decimals) {
    if (isfinite(value))
        text_put_format(page, "%.*f", decimals, value);
    else
        text_put(page, "&ndash;");
}

void page_figures(text_buffer *page) { text_put(page, "<dl class=\"figures\">"); }

void page_figure(text_buffer *page, const char *label, double value, int decimals, const char *unit) {
    text_put(page, "<div><dt>");
    page_text(page, label, 0);
    text_put(page, "</dt><dd>");
    page_number(page, value, decimals);
    if (isfinite(value) && unit[0]) text_put_format(page, " %s", unit);
    text_put(page, "</dd></div>");
}

void page_figures_end(text_buffer *page) { text_put(page, "</dl>\n"); }

void page_bar(text_buffer *page, const char *name, const page_part *parts, int count, double ms) {
    text_put(page, "<span>");
    page_text(page, name, 0);
    text_put(page, "</span><span class=\"bar\">");
    for (int i = 0; i < count; i++) {
        if (!(parts[i].share > 0)) continue;
        text_put_format(page, "<i class=\"c%d\" style=\"width:%.3f%%\" title=\"", parts[i].color, parts[i].share * 100);
        page_text(page, parts[i].label, 0);
        text_put(page, "\"></i>");
    }
    text_put(page, "</span><span>");
    page_number(page, ms, 3);
    text_put(page, " ms</span>\n");
}

void page_legend(text_buffer *page, const char *const *names, int count) {
    text_put(page, "<ul class=\"legend\">");
    for (int i = 0; i < count; i++) {
        text_put_format(page, "<li><b class=\"c%d\"></b>", i);
        page_text(page, names[i], 0);
        text_put(page, "</li>");
    }
    text_put(page, "</ul>\n");
}

void page_json_number(text_buffer *page, double value) {
    if (isfinite(value))
        text_put_number(page, value);
    else
        text_put(page, "null");
}

void page_json_string(text_buffer *page, const char *text) {
    /* inside <script> only "</" and "<!--" end or open something: no "<" at all is simplest */
    size_t plain = 0, length = strlen(text);
    text_put(page, "\"");
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\' && c != '<') continue;
        text_put_n(page, text + plain, i - plain);
        text_put_format(page, "\\u%04x", c);
        plain = i + 1;
    }
    text_put_n(page, text + plain, length - plain);
    text_put(page, "\"");
}
