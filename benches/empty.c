/* The empty hook: it reads its standard input, as every hook must, and nothing else. */
#include <unistd.h>

int main(void)
{
    char buffer[65536];
    while (read(0, buffer, sizeof buffer) > 0)
        ;
    return 0;
}
