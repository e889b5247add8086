" Fills in at the cursor of a buffer by POST /infill. On the wire it is llama.vim's own request, field by field; this
" script is ours, and has none of its caches, timers and hints.
"
"   nvim --headless -u NONE -i NONE -n FILE --cmd 'let g:url = "http://…/infill"' -c 'call cursor(…)' -S fill_in.vim
"
" g:what    fill: put the middle at the cursor, write the file; warm: send the context alone; stop: begin, and be killed
" g:most    how many tokens at most, its n_predict (128 if nobody sets it)
" g:extra   other files: a list of {text, time, filename}
" g:go      stop: when this file is there, the job is killed

let s:raw = ''
let s:code = v:null
let s:fields = ['content'] + map(['prompt_n', 'prompt_ms', 'prompt_per_token_ms', 'prompt_per_second', 'predicted_n',
    \ 'predicted_ms', 'predicted_per_token_ms', 'predicted_per_second'], {_, name -> 'timings/' . name})
    \ + ['truncated', 'tokens_cached']

" A dictionary in Vim has no order of its own: with the same keys, put in one after the other, the bytes are the same.
function! s:json(pairs) abort
    let l:made = {}
    for [l:key, l:value] in a:pairs
        let l:made[l:key] = l:value
    endfor
    return json_encode(l:made)
endfunction

function! s:warming() abort
    return s:json([['id_slot', 0], ['input_prefix', ''], ['input_suffix', ''], ['input_extra', g:extra], ['prompt', ''],
        \ ['n_predict', 0], ['temperature', 0.0], ['samplers', []], ['stream', v:false], ['cache_prompt', v:true],
        \ ['t_max_prompt_ms', 1], ['t_max_predict_ms', 1], ['response_fields', ['']], ['model', '']])
endfunction

function! s:filling(most, time) abort
    let [l:row, l:column, l:line] = [line('.'), col('.') - 1, getline('.')]
    let l:above = join(getline(max([1, l:row - 256]), l:row - 1), "\n") . "\n"
    let l:below = join(getline(l:row + 1, min([line('$'), l:row + 64])), "\n") . "\n"
    return s:json([['id_slot', 0], ['input_prefix', l:above],
        \ ['input_suffix', strpart(l:line, l:column) . "\n" . l:below], ['input_extra', g:extra],
        \ ['prompt', strpart(l:line, 0, l:column)], ['n_predict', a:most], ['stop', []],
        \ ['n_indent', strlen(matchstr(l:line, '^\s*'))], ['top_k', 40], ['top_p', 0.9],
        \ ['samplers', ['top_k', 'top_p', 'infill']], ['stream', v:false], ['cache_prompt', v:true],
        \ ['t_max_prompt_ms', 500], ['t_max_predict_ms', a:time], ['response_fields', s:fields], ['model', '']])
endfunction

function! s:ended(job, code, event) abort
    let s:code = a:code
endfunction

function! s:answered(job, data, event) abort
    let s:raw = join(a:data, "\n")
endfunction

function! s:send(body) abort
    let l:job = jobstart(['curl', '--silent', '--no-buffer', '--request', 'POST', '--url', g:url,
        \ '--header', 'Content-Type: application/json', '--data', '@-', '--header', 'Authorization: Bearer '],
        \ {'on_stdout': function('s:answered'), 'on_exit': function('s:ended'), 'stdout_buffered': v:true})
    call chansend(l:job, a:body)
    call chanclose(l:job, 'stdin')
    return l:job
endfunction

function! s:put(text) abort
    let [l:row, l:column] = [line('.') - 1, col('.') - 1]
    call nvim_buf_set_text(0, l:row, l:column, l:row, l:column, split(a:text, "\n", 1))
endfunction

if g:what ==# 'warm'
    call s:send(s:warming())
    call wait(120000, {-> s:code isnot v:null}, 20)
elseif g:what ==# 'fill'
    call s:send(s:filling(g:most, 250))
    call wait(120000, {-> s:code isnot v:null}, 20)
    " llama.vim reads an answer whose raw bytes match these two, and no other.
    if s:raw =~# '^\s*{' && s:raw =~# '\v"content"\s*:"'
        call s:put(json_decode(s:raw)['content'])
        write
    endif
elseif g:what ==# 'stop'
    let s:job = s:send(s:filling(g:most, 600000))
    call wait(120000, {-> filereadable(g:go)}, 20)
    call jobstop(s:job)
    call wait(120000, {-> s:code isnot v:null}, 20)
endif
call writefile(split(s:raw . "\ncurl: " . s:code, "\n", 1), expand('%') . '.told', 'b')
quitall!
