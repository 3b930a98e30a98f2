"""Templates that exercise one construct each: (name, template, variables).

make.py renders them with jinja2 as transformers configures it; what jinja2 refuses is a case too.
"""

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Bye"},
]
NUMBERS = {"xs": [3, 1, 2], "d": {"b": 1, "a": 2, "C": 3}, "s": "Hello World", "n": 7, "f": 2.5, "none_value": None, "t": True}
PEOPLE = {
    "people": [
        {"name": "Ann", "age": 31, "tags": ["x", "y"]},
        {"name": "bob", "age": 25, "tags": []},
        {"name": "Cid", "age": 31},
    ]
}
TOOLS = {
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "It's <b>\"sunny\"</b> & 20\u00b0C \U0001f600",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            },
        }
    ]
}

CASES = []


def case(name, template, **variables):
    CASES.append((name, template, variables))


# Whitespace: trim_blocks, lstrip_blocks, the signs, raw blocks, comments, line ends.
case("trim_blocks", "{% if true %}\nyes\n{% endif %}\nend")
case("lstrip_blocks", "a\n   {% if true %}\n  b\n   {% endif %}\nc")
case("lstrip_not_after_text", "a   {% if true %}b{% endif %}   c")
case("variable_keeps_spaces", "a\n   {{ 1 }}\n b")
case("minus_both", "a  \n {%- if true -%} \n b \n {%- endif -%} \n c")
case("minus_variable", "a \n {{- ' b ' -}} \n c")
case("plus_keeps_indent", "a\n   {%+ if true %}b{% endif %}")
case("plus_keeps_newline", "{% if true +%}\nb{% endif %}")
case("comment_trims", "a\n  {# note #}\nb{# x #} c")
case("comment_minus", "a \n {#- note -#} \n b")
case("comment_with_tags", "a{# {% if %} {{ x }} #}b")
case("raw", "{% raw %}{{ not }} {% a %}{% endraw %}!")
case("raw_newlines", "a\n  {% raw %}\n  {{ x }}\n  {% endraw %}\nb")
case("raw_minus", "a {%- raw -%}  x  {%- endraw -%} b")
case("trailing_newline", "text\n")
case("two_trailing_newlines", "text\n\n")
case("carriage_returns", "a\r\n{% if true %}\r\nb\r{% endif %}\r\nc")
case("block_end_then_blank_line", "{% if true %}\n\nx{% endif %}")
case("only_block", "   {% set a = 1 %}   ")
case("spaces_before_first_tag", "   {% set a = 1 %}b")
case("tab_indent", "x\n\t{% if 1 %}\n\ty\n\t{% endif %}\nz")
case("nbsp_before_tag", "x\n\u00a0{% if 1 %}y{% endif %}")
case("nested_braces", "{{ {'a': {'b': 1}} }}")
case("percent_brace_inside_string", "{{ '%} }}' }}{% set a = '{% x %}' %}{{ a }}")
case("single_braces", "{ a } {x} % }} %}")

# Literals and printing.
case("string_escapes", r"""{{ 'a\tb\\n\n\'\"\x41\u00e9\U0001F600\101\q\0' | list }}""")
case("string_concatenation", "{{ 'a' 'b' \"c\" }}")
case("string_newline", "{{ 'a\nb' }}")
case("backslash_before_letter", "{{ '\\\u00e9\\\u4e2d' }}")
case("integers", "{{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 00 }} {{ -5 }} {{ - 5 }} {{ +5 }}")
case("floats", "{{ 1.0 }} {{ 1e3 }} {{ 1.5e-7 }} {{ 1e16 }} {{ 123456789012345.0 }} {{ 0.1 + 0.2 }} {{ 1e22 }} {{ 1e-4 }} {{ 5e-324 }} {{ 1_0.5 }}")
case("float_integer_printing", "{{ 3.0 * 2 }} {{ 10 / 2 }} {{ 7 // 2 }} {{ 7.0 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ -7.5 % 2 }}")
case("constants", "{{ true }} {{ True }} {{ false }} {{ none }} {{ None }}")
case("list_printing", "{{ [1, 'a', \"it's\", 'say \"x\"', 'both \\' \"', none, true, 1.5, [], {}, ()] }}")
case("dict_printing", "{{ {'a': 1, 2: 'b', none: [1], 1.5: {'x': ()}} }}")
case("tuple_printing", "{{ (1,) }} {{ (1, 2) }} {{ 1, 2 }} {{ () }}")
case("repr_escapes", "{{ ['\\n\\t\\\\', '\\x00\\x7f', 'é中\U0001f600', '\u200b\u00ad\ue000', '\\r'] }}")
case("unicode", "{{ '日本' ~ x ~ '\U0001f600' }}", x="é")
case("infinity", "{{ 1e999 }} {{ -1e999 }} {{ [1e999] }}")
case("range_printing", "{{ range(3) }} {{ range(1, 10, 2) }} {{ range(3)[1:] }} {{ range(10)[::-2] }}")
case("views_printing", "{{ d.keys() }} {{ d.values() }} {{ d.items() }}", **NUMBERS)
case("undefined_in_list", "{{ [nothing] }}")

# Operators.
case("precedence", "{{ 1 + 2 * 3 ** 2 - 4 // 3 }} {{ (1 + 2) * 3 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}")
case("comparison_chain", "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 == true }} {{ 3 > 2 >= 2 != 1 }}")
case("string_comparison", "{{ 'a' < 'b' }} {{ 'Z' < 'a' }} {{ 'é' > 'z' }} {{ [1, 2] < [1, 3] }} {{ (1,) < (1, 0) }}")
case("in_operator", "{{ 1 in xs }} {{ 9 not in xs }} {{ 'World' in s }} {{ 'a' in d }} {{ 'z' in d }} {{ '' in s }} {{ 2 in (1, 2) }}", **NUMBERS)
case("not_in_versus_not", "{{ not 1 in [2] }} {{ not (1 in [1]) }} {{ not not 1 }}")
case("and_or_values", "{{ 0 or 'x' }} {{ 1 and 'y' }} {{ '' or none }} {{ [] and 1 }} {{ none or 0 or [] }}")
case("concat_operator", "{{ 1 ~ 'a' ~ none ~ 2.0 ~ [1] ~ true ~ nothing }}")
case("error_concat_before_plus", "{{ 'a' ~ 1 + 2 }}")
case("concat_after_times", "{{ 1 ~ 2 * 3 }}")
case("plus_strings_lists", "{{ 'a' + 'b' }} {{ [1] + [2] }} {{ (1,) + (2,) }} {{ 1 + true }}")
case("repeat", "{{ 'ab' * 3 }} {{ 2 * [1] }} {{ 'x' * 0 }} {{ 'x' * -1 }}")
case("conditional", "{{ 'a' if n > 5 else 'b' }} {{ 'a' if n > 9 }}| {{ 1 if false else 2 if false else 3 }}", **NUMBERS)
case("conditional_without_else_used", "{{ ('a' if false) is undefined }}")
case("arithmetic_mixed", "{{ 1 + 0.5 }} {{ 3 * 0.1 }} {{ 2 ** -1 }} {{ 2.0 ** 3 }} {{ 7 / 2 }} {{ 1 - 2.5 }} {{ 2 ** 0.5 }}")
case("string_equality", "{{ 1 == '1' }} {{ 'a' == 'a' }} {{ none == false }} {{ [] == () }} {{ {'a': 1} == {'a': 1.0} }} {{ nothing == nothing2 }}")
case("unary_chain", "{{ --1 }} {{ -+1 }} {{ -true }} {{ -(2 + 3) }} {{ -1 | string }}")

# Attributes, items, slices.
case("attribute_and_item", "{{ m.role }} {{ m['role'] }} {{ m.get('role') }} {{ m.nothing }}| {{ m['nothing'] }}|", m=MESSAGES[0])
case("method_shadows_key", "{{ m['items'] }} {{ m.items() | list }}", m={"items": 1})
case("integer_attribute", "{{ xs.0 }} {{ xs[0] }} {{ xs.2 }} {{ xs[5] }}|", **NUMBERS)
case("negative_index", "{{ xs[-1] }} {{ s[-1] }} {{ xs[-4] }}| {{ s[99] }}|", **NUMBERS)
case("slices", "{{ xs[1:] }} {{ xs[:-1] }} {{ xs[::-1] }} {{ xs[::2] }} {{ xs[5:] }} {{ xs[-2:] }} {{ xs[:] }}", **NUMBERS)
case("string_slices", "{{ s[1:4] }} {{ s[::-1] }} {{ s[-5:] }} {{ s[8:2:-2] }} {{ 'é中\U0001f600x'[1:3] }} {{ s[-99:2] }}", **NUMBERS)
case("slice_with_none", "{{ xs[none:2] }} {{ xs[0:none:1] }}", **NUMBERS)
case("chained_access", "{{ people[0].tags[1] }} {{ people[1]['name'].upper() }} {{ people[2].tags }}|", **PEOPLE)
case("item_of_string_key", "{{ 'abc'['upper']() }} {{ xs['x'] }}|", **NUMBERS)
case("none_attribute", "{{ none_value.x }}| {{ none_value['x'] }}|", **NUMBERS)
case("integer_keys", "{{ {1: 'a', 2: 'b'}[1] }} {{ {1: 'a'}[true] }} {{ {1: 'a'}[1.0] }} {{ {(1, 2): 'p'}[1, 2] }}")
case("duplicate_keys", "{{ {'a': 1, 'a': 2} }}")
case("dict_in_lookup_of_list", "{{ {'a': 1}[[1]] }}|")
case("private_attribute", "{{ s.__class__ }}| {{ m._x }}", s="a", m={"_x": 5})

# Undefined.
case("undefined_prints_nothing", "[{{ nothing }}] [{{ nothing | upper }}] [{{ nothing | length }}]")
case("undefined_loop", "{% for x in nothing %}x{% else %}empty{% endfor %}")
case("undefined_falsy", "{{ 'y' if nothing else 'n' }} {{ nothing is defined }} {{ nothing is none }} {{ nothing in [1] }} {{ 1 in nothing }}")
case("undefined_default", "{{ nothing | default('d') }} {{ '' | default('d') }} {{ '' | default('d', true) }} {{ none | d('x') }} {{ nothing | d }}|")
case("error_undefined_attribute", "{{ nothing.x }}")
case("error_undefined_item", "{{ nothing['x'] }}")
case("error_undefined_plus", "{{ 'a' + nothing }}")
case("error_undefined_call", "{{ nothing() }}")
case("error_undefined_compare", "{{ nothing < 1 }}")
case("error_undefined_in_string", "{{ nothing in 'abc' }}")
case("error_missing_key_used", "{{ m.nothing.deeper }}", m={})
case("error_undefined_message_content", "{% for m in messages %}{{ m['contents'] + 'x' }}{% endfor %}", messages=MESSAGES)

# set, namespace, scopes, with.
case("set_tuple", "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d) = [3, 4] %}{{ c }}{{ d }}")
case("set_nested_tuple", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}")
case("set_tuple_value", "{% set a = 1, 2 %}{{ a }}")
case("set_block", "{% set a %}x{{ 1 }}y{% endset %}[{{ a }}]")
case("set_block_filter", "{% set a | upper | replace('X', '-') %}x{{ 1 }}y{% endset %}[{{ a }}]")
case("set_block_scope", "{% set x = 1 %}{% set a %}{% set x = 2 %}{{ x }}{% endset %}{{ a }}{{ x }}")
case("loop_scope", "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + 5 %}{{ x }}{% endfor %}{{ x }}")
case("if_has_no_scope", "{% if true %}{% set x = 1 %}{% endif %}{{ x }}")
case("namespace", "{% set ns = namespace(a=1, b='x') %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.nothing }}|{{ ns['a'] }}")
case("namespace_from_dict", "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}{{ ns }}")
case("namespace_tuple_target", "{% set ns = namespace() %}{% set ns.a, ns.b = 1, 2 %}{{ ns.a + ns.b }}")
case("namespace_new_field", "{% set ns = namespace() %}{% set ns.found = true %}{{ ns.found }}")
case("with_block", "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}")
case("set_shadows_variable", "{% set messages = messages[1:] %}{{ messages | length }}", messages=MESSAGES)
case("set_in_branch_not_taken", "{% if false %}{% set x = 1 %}{% endif %}{{ x }}", x=5)
case("error_namespace_of_dict", "{% set d = {} %}{% set d.x = 1 %}")
case("error_unpack_count", "{% set a, b = [1, 2, 3] %}")
case("error_unpack_integer", "{% for a, b in [1] %}{% endfor %}")
case("error_private_namespace", "{% set ns = namespace() %}{% set ns._x = 1 %}")

# Loops.
case("loop_fields", "{% for x in 'abc' %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}")
case("loop_neighbours", "{% for x in [1, 2, 3] %}[{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }}]{{ loop.previtem is defined }}{% endfor %}")
case("loop_else", "{% for x in [] %}a{% else %}none{% endfor %}{% for x in [1] %}a{% else %}none{% endfor %}")
case("loop_filter", "{% for x in range(10) if x % 3 == 0 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}")
case("loop_filter_to_nothing", "{% for x in [1] if x > 5 %}a{% else %}none{% endfor %}")
case("loop_nested", "{% for x in [1, 2] %}{% for y in 'ab' %}{{ loop.index }}{{ x }}{{ y }} {% endfor %}{{ loop.index }}{% endfor %}")
case("loop_over_dict", "{% for k in d %}{{ k }}{% endfor %}{% for k, v in d.items() %}{{ k }}{{ v }}{% endfor %}", **NUMBERS)
case("loop_over_string", "{% for c in 'é中x' %}[{{ c }}]{% endfor %}")
case("loop_over_tuple_literal", "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}")
case("loop_break", "{% for x in range(10) %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}!")
case("loop_continue", "{% for x in range(5) %}{% if x is odd %}{% continue %}{% endif %}{{ x }}{% else %}e{% endfor %}")
case("loop_break_else", "{% for x in [1] %}{% break %}{% else %}e{% endfor %}.")
case("loop_continue_always_else", "{% for x in [1, 2] %}{% continue %}{% else %}e{% endfor %}.{% for x in [1, 2] %}{% if x == 2 %}{% break %}{% endif %}{% else %}e{% endfor %}.")
case("loop_over_generator", "{% for x in [1, 2, 3] | map('string') %}{{ loop.length }}{{ loop.last }}{{ x }}{% endfor %}")
case("loop_printing", "{% for x in [1, 2] %}{{ loop }}{% endfor %}")
case("loop_variable_after_loop", "{% for x in [1, 2] %}{% endfor %}{{ x }}|{{ loop }}|")
case("loop_target_shadows", "{% set x = 'o' %}{% for x in [1] %}{{ x }}{% endfor %}{{ x }}")
case("loop_messages_neighbours", "{% for m in messages %}{{ m.role[0] }}{% if not loop.last and messages[loop.index0 + 1].role == 'user' %}>{% endif %}{% endfor %}", messages=MESSAGES)
case("error_loop_over_integer", "{% for x in 5 %}{% endfor %}")
case("error_loop_over_none", "{% for x in none %}{% endfor %}")
case("error_loop_called", "{% for x in [1] %}{{ loop([1]) }}{% endfor %}")
case("error_break_outside", "{% break %}")
case("error_loop_as_target", "{% for loop in [1] %}{{ loop }}{% endfor %}")

# if.
case("elif_chain", "{% for n in range(4) %}{% if n == 0 %}a{% elif n == 1 %}b{% elif n == 2 %}c{% else %}d{% endif %}{% endfor %}")
case("if_tuple", "{% if 0, %}a{% endif %}")
case("if_truthiness", "{% for x in [0, 1, '', 'a', [], [0], {}, {'a': 1}, none, 0.0, 0.1, false, true, (), range(0)] %}{{ 'T' if x else 'F' }}{% endfor %}")
case("if_colon", "{% if true: %}a{% endif %}")
case("unknown_filter_in_branch", "{% if false %}{{ 1 | nosuch }}{% endif %}ok")
case("error_unknown_filter_in_taken_branch", "{% if true %}\n{{ 1 | nosuch }}{% endif %}ok")

# Macros and filter blocks.
case("macro", "{% macro f(a, b=2, c='x') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(c=5, a=0) }}{{ f() }}")
case("macro_default_uses_argument", "{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}")
case("macro_sees_globals", "{% set x = 1 %}{% macro f() %}{{ x }}{{ y }}{% endmacro %}{% set x = 2 %}{{ f() }}", y="Y")
case("macro_scope", "{% macro f() %}{% set x = 5 %}{{ x }}{% endmacro %}{% set x = 1 %}{{ f() }}{{ x }}")
case("macro_recursion", "{% macro f(n) %}{{ n }}{% if n > 0 %},{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(4) }}")
case("macro_result_is_text", "{% macro f() %}ab{% endmacro %}{{ f() | upper }}{{ f()[0] }}{{ f() ~ 'c' }}{{ f() is string }}")
case("macro_whitespace", "{% macro f(x) -%}\n  <{{ x }}>\n{%- endmacro %}\n{{ f(1) }}\n{{ f(2) }}\n")
case("macro_in_loop", "{% macro f(x) %}{{ loop }}|{{ x }}{% endmacro %}{% for i in [1, 2] %}{{ f(i) }}{% endfor %}")
case("filter_block", "{% filter upper | replace('B', 'x') %}abc{{ 'd' }}{% endfilter %}")
case("spread_arguments", "{% macro f(a, b, c=0) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(*[1, 2], **{'c': 3}) }}")
case("error_macro_too_many", "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}")
case("error_macro_keyword", "{% macro f(a) %}{% endmacro %}{{ f(b=1) }}")
case("error_macro_default_order", "{% macro f(a=1, b) %}{% endmacro %}")
case("error_not_callable", "{{ 'a'() }}")
case("generation", "a{% generation %}b{{ 1 }}{% set x = 2 %}{% endgeneration %}c{{ x }}|")
case("generation_trims", "a\n{% generation %}\nb\n{% endgeneration %}\nc")

# Filters.
case("case_filters", "{{ s | upper }} {{ s | lower }} {{ 'hELLO wORLD' | capitalize }} {{ 'foo bar-baz (qux) [a] {b} it\\'s' | title }}", **NUMBERS)
case("case_unicode", "{{ 'straße éÀ ΣΑΣ ǆ ﬁ' | upper }} {{ 'ÀÉ ΣΑΣ İ' | lower }} {{ 'ǆa ßb' | capitalize }} {{ 'éa ßb' | title }}")
case("trim_filter", "[{{ '  a b \n' | trim }}] [{{ 'xxaxx' | trim('x') }}] [{{ 5 | trim }}] [{{ '\u00a0\u3000a' | trim }}]")
case("replace_filter", "{{ 'aaa' | replace('a', 'b', 2) }} {{ 'abc' | replace('', '-') }} {{ 'abc' | replace('b', '') }} {{ 123 | replace(2, 'x') }}")
case("join_filter", "{{ [1, 'a', none, 2.5] | join(', ') }} {{ 'abc' | join('-') }} {{ [] | join('x') }} {{ people | join('/', attribute='name') }} {{ [1, 2] | join }}", **PEOPLE)
case("length_filter", "{{ 'é中\U0001f600' | length }} {{ [1, 2] | count }} {{ {'a': 1} | length }} {{ range(5) | length }}")
case("first_last", "{{ [1, 2] | first }} {{ 'abc' | last }} {{ [] | first }}| {{ [] | last is undefined }} {{ {'a': 1, 'b': 2} | first }} {{ {'a': 1, 'b': 2} | last }}")
case("list_filter", "{{ 'abc' | list }} {{ {'a': 1} | list }} {{ range(3) | list }} {{ (1, 2) | list }}")
case("items_filter", "{{ {'a': 1, 'b': 2} | items | list }} {{ nothing | items | list }}")
case("dictsort", "{{ d | dictsort }} {{ d | dictsort(true) }} {{ d | dictsort(by='value', reverse=true) }}", **NUMBERS)
case("sort_filter", "{{ xs | sort }} {{ xs | sort(reverse=true) }} {{ ['b', 'A', 'a', 'B'] | sort }} {{ ['b', 'A'] | sort(case_sensitive=true) }} {{ 'cab' | sort }}", **NUMBERS)
case("sort_attribute", "{{ people | sort(attribute='name') | map(attribute='name') | join(',') }} {{ people | sort(attribute='age,name', reverse=true) | map(attribute='name') | list }}", **PEOPLE)
case("sort_stable", "{{ people | sort(attribute='age') | map(attribute='name') | list }}{{ people | sort(attribute='age', reverse=true) | map(attribute='name') | list }}", **PEOPLE)
case("map_filter", "{{ ['a', 'b'] | map('upper') | list }} {{ people | map(attribute='age') | list }} {{ people | map(attribute='tags', default='-') | list }} {{ ['1', 'x'] | map('int', 7) | list }} {{ none | map('upper') | list }}", **PEOPLE)
case("map_attribute_path", "{{ people[:1] | map(attribute='tags.0') | list }}", **PEOPLE)
case("select_filters", "{{ range(6) | select('odd') | list }} {{ range(6) | reject('divisibleby', 3) | list }} {{ [0, 1, '', 'a'] | select | list }} {{ ['a', 1] | select('string') | list }}")
case("selectattr_filters", "{{ people | selectattr('age', 'gt', 30) | map(attribute='name') | list }} {{ people | rejectattr('tags') | map(attribute='name') | list }} {{ people | selectattr('tags', 'defined') | list | length }} {{ people | selectattr('name', 'equalto', 'bob') | first }}", **PEOPLE)
case("string_filter", "{{ 5 | string ~ 1 }} {{ [1] | string }} {{ none | string }}")
case("int_filter", "{{ '42' | int }} {{ '42.7' | int }} {{ 'x' | int }} {{ 'x' | int(9) }} {{ 3.9 | int }} {{ -3.9 | int }} {{ true | int }} {{ ' 5 ' | int }} {{ '0x1f' | int(base=16) }} {{ '1_000' | int }} {{ none | int }} {{ '' | int }}")
case("float_filter", "{{ '1.5' | float }} {{ 'x' | float }} {{ 2 | float }} {{ '1e3' | float }} {{ 'nan' | float }} {{ '-inf' | float }} {{ none | float(1) }} {{ '1e999' | float }}")
case("indent_filter", "{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(1, blank=true) }}|{{ 'a\nb' | indent('>> ') }}|{{ 'a\nb\n' | indent(2) }}|")
case("unique_reverse", "{{ [1, 2, 1, 1.0, 'a', 'A'] | unique | list }} {{ ['a', 'A'] | unique(true) | list }} {{ [1, 2] | reverse | list }} {{ 'abc' | reverse }}")
case("min_max", "{{ xs | min }} {{ xs | max }} {{ ['b', 'A'] | min }} {{ [] | max }}| {{ people | max(attribute='age') }}", **NUMBERS, **PEOPLE)
case("safe_filter", "{{ '<b>' | safe }} {{ '<a>&\"' }}")
case("safe_anywhere", "{% set x = '<b>' | safe %}{{ x ~ '<' }}|{{ x | length }}|{{ (x | trim) ~ x.strip('<') }}|{% if x | safe %}y{% endif %}|{{ ['<', '>'] | map('safe') | join(',') }}|{{ 1 | safe }}")
case("safe_before_other_filters", "{{ ' <a> ' | safe | trim | upper }}|{{ '<' | tojson | safe }}|{{ ('<' | safe) in '<>' }}")
case("safe_escapes_what_is_added", "{% set x = '<b>' | safe %}{{ x + '<i>' + '&' }}|{{ '<' + x }}|{{ x + x }}|{{ x.strip('<') + \"'\" }}")
case("format_fields", "{{ '<a{}>'.format(1) }}|{{ '{}-{}'.format('x', none) }}|{{ '{1}{0}{1}'.format('a', 'b') }}|{{ '{n}={v}'.format(n='k', v=[1, 'q']) }}|{{ '{{}}{}'.format('') }}")
case("format_conversions", "{{ '{!r} {!s}'.format('q', 'q') }}|{{ '{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd') }}|{{ '{:05d} {:x} {:+d}'.format(42, 255, 3) }}|{{ '{:.2f} {:8.3f} {:e}'.format(1.005, 2.0, 12345.678) }}|{{ '{:.2f}'.format(3) }}")
case("format_too_few", "{{ '{} {}'.format(1) }}")
case("format_mixed", "{{ '{} {0}'.format(1) }}")
case("format_unknown_name", "{{ '{a}'.format(b=1) }}")
case("format_single_brace", "{{ 'a}'.format(1) }}")
case("format_open_brace", "{{ 'a{'.format(1) }}")
case("filter_precedence", "{{ 'a' ~ 'b' | upper }} {{ ('a' ~ 'b') | upper }} {{ 1 + 2 | string | length }}")
case("filter_chain_call", "{{ [' a ', 'b'] | map('trim') | map('upper') | join('+') }}")
case("generator_once", "{% set g = ['a', 'b'] | map('upper') %}{{ g | join }}|{{ g | join }}|")
case("generator_first", "{% set g = [1, 2, 3] | select %}{{ g | first }}{{ g | list }}")
case("error_generator_last", "{{ ([1] | map('string')) | last }}")
case("error_generator_length", "{{ ([1] | map('string')) | length }}")
case("error_unknown_filter", "a\n{{ 1 | nosuch }}")
case("error_sort_mixed", "{{ [1, 'a'] | sort }}")
case("error_join_integer", "{{ 5 | join }}")
case("error_default_too_many", "{{ 1 | default(1, 2, 3) }}")

# tojson as transformers overrides it.
case("tojson", "{{ tools | tojson }}", **TOOLS)
case("tojson_indent", "{{ tools | tojson(indent=4) }}\n{{ tools[0] | tojson(indent=2) }}", **TOOLS)
case("tojson_ascii", "{{ tools[0].function.description | tojson(ensure_ascii=true) }} {{ '\x7f' | tojson(true) }}", **TOOLS)
case("tojson_values", "{{ [1, 1.0, 1e20, true, none, 'a/b', '\\x00\\x1f\\x7f\\b\\f', [], {}, (1, 2)] | tojson }}")
case("tojson_keys", "{{ {1: 'a', none: 'b', true: 'c', 2.5: 'd'} | tojson }}")
case("tojson_separators", "{{ {'a': [1, 2]} | tojson(separators=(',', ':')) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ [1] | tojson(indent='\t') }} {{ [[]] | tojson(indent=1) }}")
case("tojson_infinity", "{{ [1e999, -1e999, 'nan' | float] | tojson }}")
case("error_tojson_undefined", "{{ nothing | tojson }}")
case("error_tojson_view", "{{ {'a': 1}.items() | tojson }}")

# Tests.
case("type_tests", "{% for x in [1, 1.5, 'a', [1], {'a': 1}, none, true, (1,)] %}{{ x is integer }},{{ x is float }},{{ x is number }},{{ x is string }},{{ x is mapping }},{{ x is sequence }},{{ x is iterable }},{{ x is none }},{{ x is boolean }},{{ x is true }};{% endfor %}")
case("value_tests", "{{ 4 is even }} {{ 4 is odd }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is eq 1 }} {{ 1 is equalto 2 }} {{ 1 is ne 2 }} {{ 2 is gt 1 }} {{ 2 is lessthan 1 }} {{ 2 is ge(2) }} {{ 1 is in [1] }} {{ 'a' is in 'abc' }} {{ false is false }}")
case("negated_tests", "{{ 1 is not none }} {{ nothing is not defined }} {{ not nothing is defined }} {{ 1 is not in [1] }}")
case("tests_with_logic", "{{ x is defined and x is not none }} {{ x is defined or y is defined }} {{ x is string and x }}", x="v")
case("view_tests", "{{ {'a': 1}.items() is sequence }} {{ {'a': 1}.items() is iterable }} {{ nothing is sequence }} {{ nothing is iterable }} {{ ([1] | map('string')) is iterable }} {{ range(3) is sequence }}")
case("error_unknown_test", "{{ 1 is nosuch }}")
case("error_chained_tests", "{{ 1 is integer is true }}")

# Methods.
case("strip_methods", "[{{ '  a '.strip() }}] [{{ 'xxaxx'.lstrip('x') }}] [{{ ' a '.rstrip() }}] [{{ 'abcba'.strip('ab') }}] [{{ ' a\n'.strip(none) }}]")
case("split_methods", "{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c'.split(' ', 1) }} {{ 'a b c'.rsplit(' ', 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ ' a b  c '.split(none, 1) }} {{ ' a b  c '.rsplit(none, 1) }} {{ 'aXXbXXc'.rsplit('XX') }}")
case("think_split", "{{ c.split('</think>')[-1].lstrip('\\n') }}|{{ c.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') }}", c="<think>\nplan\n</think>\n\nanswer")
case("affix_methods", "{{ s.startswith('He') }} {{ s.endswith('ld') }} {{ s.startswith(('x', 'H')) }} {{ s.endswith('') }} {{ s.startswith('W', 6) }} {{ s.removeprefix('Hello ') }} {{ s.removesuffix('x') }}", **NUMBERS)
case("find_methods", "{{ s.find('o') }} {{ s.rfind('o') }} {{ s.find('z') }} {{ s.find('o', 5) }} {{ s.index('W') }} {{ 'é中x'.find('x') }} {{ s.count('l') }} {{ 'aaa'.count('aa') }} {{ 'abc'.count('') }} {{ s.find('o', -3) }} {{ s.find('l', 3, 4) }}", **NUMBERS)
case("case_methods", "{{ s.upper() }} {{ s.lower() }} {{ \"they're BILL's\".title() }} {{ 'aBC'.capitalize() }}", **NUMBERS)
case("join_replace_methods", "{{ ', '.join(['a', 'b']) }} {{ 'aXbX'.replace('X', '-') }} {{ 'aXbX'.replace('X', '-', 1) }} {{ ''.join([]) }}")
case("splitlines_method", "{{ 'a\nb\r\nc\x0bd'.splitlines() }} {{ 'a\nb\n'.splitlines(true) }} {{ ''.splitlines() }}")
case("dict_methods", "{{ d.get('a') }} {{ d.get('z') }} {{ d.get('z', 9) }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.copy() }} {{ d.items() | list | length }}", **NUMBERS)
case("list_methods", "{{ xs.index(1) }} {{ xs.count(3) }} {{ xs.copy() }} {{ (1, 2, 1).count(1) }} {{ range(5).index(2) }}", **NUMBERS)
case("error_append", "{% set _ = xs.append(4) %}", **NUMBERS)
case("error_dict_update", "{{ d.update({'x': 1}) }}", **NUMBERS)
case("forbidden_method_is_undefined", "{{ xs.append is defined }} {{ xs.append }}|", **NUMBERS)
case("error_split_empty", "{{ 'a'.split('') }}")
case("error_index_missing", "{{ 'a'.index('z') }}")
case("error_no_such_method", "{{ 'a'.nosuch() }}")

# Functions.
case("range_function", "{{ range(3) | list }} {{ range(2, 5) | list }} {{ range(5, 0, -2) | list }} {{ range(0) | list }}")
case("dict_function", "{{ dict(a=1, b=2) }} {{ dict({'x': 1}, y=2) }} {{ dict([('k', 'v')]) }}")
case("strftime_now", "{{ strftime_now('%Y-%m-%d %H:%M:%S %A %d %B %j %%') }}")
case("error_raise_exception", "{% for m in messages %}\n{% if m.role == 'assistant' %}\n{{ raise_exception('no ' ~ m.role) }}{% endif %}{% endfor %}", messages=MESSAGES)
case("error_range_too_big", "{{ range(1000000) | length }}")
case("error_range_step", "{{ range(1, 2, 0) }}")

# Errors of syntax and types.
case("error_unclosed_variable", "a\n{{ x")
case("error_unclosed_block", "a\n\n{% if x")
case("error_unclosed_if", "a\n{% if true %}\nb")
case("error_unclosed_comment", "a\n{# b")
case("error_unclosed_raw", "{% raw %}\na")
case("error_unclosed_string", "a\n\n{{ 'abc }}")
case("error_unknown_tag", "a\n{% nosuch %}")
case("error_mismatched_end", "{% if true %}\n{% endfor %}")
case("error_mismatched_bracket", "{{ (1] }}")
case("error_stray_bracket", "{{ 1) }}")
case("error_empty_print", "{{ }}")
case("error_missing_operand", "{{ 1 + }}")
case("error_bad_character", "{{ 1 ? 2 }}")
case("error_assign_to_constant", "{% set true = 1 %}")
case("error_assign_to_call", "{% set f() = 1 %}")
case("error_two_expressions", "{{ 1 2 }}")
case("error_statement_expression", "{% 1 %}")
case("error_for_without_in", "{% for x %}{% endfor %}")
case("error_keyword_before_positional", "{{ dict(a=1, 2) }}")
case("error_division_by_zero", "a\n{{ 1 / 0 }}")
case("error_modulo_zero", "{{ 1 % 0 }}")
case("error_add_types", "{{ 'a' + 1 }}")
case("error_add_none", "{{ 'a' + none }}")
case("error_subtract_strings", "{{ 'a' - 'b' }}")
case("error_compare_types", "{{ 1 < 'a' }}")
case("error_slice_of_integer", "{{ n[1:2] }}", **NUMBERS)
case("error_slice_of_dict", "{{ d[1:2] }}", **NUMBERS)
case("error_slice_by_text", "{{ s[s:] }}", **NUMBERS)
case("error_slice_of_undefined", "{{ nothing[1:] }}")
case("error_slice_step_zero", "{{ 'abc'[::0] }}")
case("error_unhashable_key", "{{ {[1]: 2} }}")
case("error_not_container", "{{ 1 in 5 }}")
case("error_line_of_middle", "line 1\n{% set x = 1 %}\n{% for i in [1] %}\n  {{ x + 'a' }}\n{% endfor %}")
case("error_duplicate_keyword", "{{ dict(a=1, **{'a': 2}) }}")

# Shapes of templates as other chat models write them.
case("alternation_check", "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}", messages=MESSAGES[1:])
case("content_parts", "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% elif 'image' in part %}<image>{% endif %}{% endfor %}{% endif %}{% endfor %}", messages=[{"content": "a"}, {"content": [{"type": "text", "text": "b"}, {"type": "image", "image": 1}]}])
case("last_user_index", "{% set ns = namespace(last=-1) %}{% for m in messages[::-1] %}{% set index = (messages | length - 1) - loop.index0 %}{% if ns.last < 0 and m.role == 'user' %}{% set ns.last = index %}{% endif %}{% endfor %}{{ ns.last }}", messages=MESSAGES)
case("system_split_off", "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] | trim %}{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% set system_message = '' %}{% endif %}{% for m in loop_messages %}{% if loop.first and system_message %}<<{{ system_message }}>>{% endif %}{{ m.role ~ ': ' ~ m.content ~ '\\n' }}{% endfor %}", messages=MESSAGES)
case("tool_arguments", "{% for t in calls %}{% set args = t.function.arguments %}{{ t.function.name }}({% for k, v in args | items %}{{ k }}={{ v if v is string else v | tojson }}{{ ', ' if not loop.last }}{% endfor %}){% endfor %}", calls=[{"function": {"name": "f", "arguments": {"a": "x", "b": [1, 2], "c": None}}}])
case("enable_thinking", "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}", enable_thinking=False)
case("date_default", "{% if not date_string is defined %}{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}{{ date_string }}")
case("multi_line_expression", "{{ (\n  'a'\n  ~ 'b'\n) | upper }}{%- set x = [\n 1,\n 2,\n] -%}\n{{ x }}")
case("indented_template", "{%- for m in messages %}\n    {%- if m.role == 'user' %}\n        {{- 'U:' + m.content }}\n    {%- elif m.role == 'assistant' %}\n        {{- 'A:' + m.content }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- 'A:' }}\n{%- endif %}\n", messages=MESSAGES, add_generation_prompt=True)
