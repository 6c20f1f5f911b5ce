/* bothy img VERB ...: images without a guest. */
#ifndef CLI_IMG_H
#define CLI_IMG_H

/* argv[0] is "img". The exit status. */
int img_main(int argc, char **argv);

#endif
